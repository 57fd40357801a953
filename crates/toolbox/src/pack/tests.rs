use super::*;
use crate::tree::is_sha256;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn packed<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Packed) {
    let mut packer = Packer::new(vec![]).unwrap();
    for content in contents {
        packer
            .add(&sha256(content), content.len() as u64, content)
            .unwrap();
    }
    packer.finish().unwrap()
}

/// Wants certain contents and keeps what it gets.
#[derive(Default)]
struct Kept {
    sizes: BTreeMap<String, u64>,
    others: bool,
    found: BTreeMap<String, Vec<u8>>,
}

impl Kept {
    fn wanting<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let sizes = contents
            .into_iter()
            .map(|content| (sha256(content), content.len() as u64));
        Self {
            sizes: sizes.collect(),
            ..Self::default()
        }
    }
}

impl Sink for Kept {
    fn wants(&self, sha256: &str) -> Wanted {
        let otherwise = if self.others { Wanted::Skip } else { Wanted::No };
        self.sizes.get(sha256).copied().map_or(otherwise, Wanted::Yes)
    }

    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        let mut bytes = vec![];
        content.read_to_end(&mut bytes)?;
        self.found.insert(sha256.to_owned(), bytes);
        Ok(())
    }
}

/// An archive made by hand: compressed and announced as it is.
fn announced(tar: &[u8]) -> (Vec<u8>, Packed) {
    let archive = zstd::encode_all(tar, 1).unwrap();
    let packed = Packed {
        sha256: sha256(&archive),
        bytes: archive.len() as u64,
        unpacked_bytes: tar.len() as u64,
    };
    (archive, packed)
}

fn header(name: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let bytes = name.as_bytes();
    // Not the library's own way, which refuses such names.
    header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
    header.set_size(size);
    header.set_mode(0o777);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

fn member(name: &str, kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut tar = header(name, content.len() as u64, kind).as_bytes().to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn linked(kind: tar::EntryType, target: &str) -> Vec<u8> {
    let mut header = header(&sha256(b"content"), 0, kind);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    ended(header.as_bytes().to_vec())
}

#[test]
fn members_that_are_no_contents_are_refused() {
    let good = sha256(b"content");
    let upper = good.to_uppercase();
    let (long, short) = (format!("{good}0"), &good[1..]);
    let names = [
        "/etc/passwd",
        "../escape",
        "a/../../b",
        ".agent/x",
        "dir/",
        "",
        ".",
        "..",
        "~/x",
        "C:\\x",
        "a\nb",
        "\u{feff}x",
        &upper,
        &long,
        short,
        "-rf",
        "./",
    ];
    for name in names {
        let (archive, packed) = announced(&ended(member(name, tar::EntryType::Regular, b"content")));
        let mut kept = Kept::wanting([b"content".as_slice()]);
        kept.others = true;
        let error = unpack(archive.as_slice(), &packed, &mut kept).unwrap_err();
        assert!(matches!(error, PackError::Hostile(_)), "{name:?}: {error}");
        assert!(kept.found.is_empty());
    }
}

#[test]
fn members_that_are_no_regular_files_are_refused() {
    use tar::EntryType as Kind;
    let name = sha256(b"content");
    let mut archives: Vec<(Kind, Vec<u8>)> = [
        Kind::Directory,
        Kind::Char,
        Kind::Block,
        Kind::Fifo,
        Kind::Continuous,
        Kind::GNUSparse,
        Kind::GNULongName,
        Kind::GNULongLink,
        Kind::XHeader,
        Kind::XGlobalHeader,
        Kind::new(b'Z'),
    ]
    .map(|kind| (kind, ended(member(&name, kind, b"content"))))
    .to_vec();
    for target in ["/etc/passwd", "../../x", &name] {
        archives.push((Kind::Symlink, linked(Kind::Symlink, target)));
        archives.push((Kind::Link, linked(Kind::Link, target)));
    }
    for (kind, tar) in archives {
        let (archive, packed) = announced(&tar);
        let mut kept = Kept::wanting([b"content".as_slice()]);
        kept.others = true;
        let error = unpack(archive.as_slice(), &packed, &mut kept).unwrap_err();
        assert!(matches!(error, PackError::Hostile(_)), "{kind:?}: {error}");
        assert!(kept.found.is_empty());
    }
}

#[test]
fn members_twice_unasked_with_another_size_or_content_are_refused() {
    let (one, two) = (b"content".as_slice(), b"another".as_slice());
    let as_named = |name: &[u8], content| member(&sha256(name), tar::EntryType::Regular, content);
    let mut lying = header(&sha256(one), 1 << 40, tar::EntryType::Regular)
        .as_bytes()
        .to_vec();
    lying.extend_from_slice(&[0; 512]);
    let cases = [
        [as_named(one, one), as_named(one, one)].concat(),
        [as_named(two, two), as_named(one, one)].concat(),
        as_named(one, b"content and more"),
        as_named(one, b"conten"),
        as_named(one, two),
        lying,
    ];
    for (number, tar) in cases.into_iter().enumerate() {
        let (archive, packed) = announced(&ended(tar));
        let mut kept = Kept::wanting([one]);
        let error = unpack(archive.as_slice(), &packed, &mut kept).unwrap_err();
        assert!(matches!(error, PackError::Hostile(_)), "{number}: {error}");
    }
}

#[test]
fn what_is_not_as_announced_is_refused() {
    let (archive, packed) = packed([b"content".as_slice()]);
    let tries: [(Vec<u8>, Packed); 7] = [
        (
            archive.clone(),
            Packed {
                bytes: packed.bytes - 1,
                ..packed.clone()
            },
        ),
        (
            archive.clone(),
            Packed {
                bytes: packed.bytes + 1,
                ..packed.clone()
            },
        ),
        (
            archive.clone(),
            Packed {
                unpacked_bytes: packed.unpacked_bytes - 1,
                ..packed.clone()
            },
        ),
        (
            archive.clone(),
            Packed {
                unpacked_bytes: packed.unpacked_bytes + 1,
                ..packed.clone()
            },
        ),
        (
            archive.clone(),
            Packed {
                sha256: sha256(b"other"),
                ..packed.clone()
            },
        ),
        ([archive.clone(), b"more".to_vec()].concat(), packed.clone()),
        ([archive.clone(), archive.clone()].concat(), packed.clone()),
    ];
    for (number, (bytes, announced)) in tries.into_iter().enumerate() {
        let mut kept = Kept::wanting([b"content".as_slice()]);
        let error = unpack(bytes.as_slice(), &announced, &mut kept).unwrap_err();
        assert!(matches!(error, PackError::Hostile(_)), "{number}: {error}");
    }
}

#[test]
fn an_archive_that_is_cut_may_be_tried_again() {
    let (archive, packed) = packed([b"content".as_slice(), &[7; 5000]]);
    for end in [0, 1, 10, archive.len() / 2, archive.len() - 1] {
        let mut kept = Kept::wanting([b"content".as_slice(), &[7; 5000]]);
        assert!(unpack(&archive[..end], &packed, &mut kept).is_err(), "{end}");
    }
}

/// Reads for ever what it is not asked to keep.
#[test]
fn a_bomb_is_left_at_the_first_byte_beyond_what_was_announced() {
    let zeros = vec![0; 16 * 1024 * 1024];
    let archive = zstd::encode_all(zeros.as_slice(), 1).unwrap();
    assert!(archive.len() < 100_000);
    let announced = Packed {
        sha256: sha256(&archive),
        bytes: archive.len() as u64,
        unpacked_bytes: 10_000,
    };
    let error = unpack(archive.as_slice(), &announced, &mut Kept::default()).unwrap_err();
    assert!(error.to_string().contains("larger than announced"), "{error}");
    // The same as the content of a member.
    let name = sha256(&zeros);
    let mut tar = header(&name, 1 << 30, tar::EntryType::Regular)
        .as_bytes()
        .to_vec();
    tar.extend_from_slice(&zeros);
    let archive = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let announced = Packed {
        sha256: sha256(&archive),
        bytes: archive.len() as u64,
        unpacked_bytes: 10_000,
    };
    let mut kept = Kept::default();
    kept.sizes.insert(name, 1 << 30);
    let error = unpack(archive.as_slice(), &announced, &mut kept).unwrap_err();
    assert!(error.to_string().contains("larger than announced"), "{error}");
    assert!(kept.found.is_empty());
}

#[test]
fn a_window_that_costs_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&[0; 4096]).unwrap();
    let archive = encoder.finish().unwrap();
    let announced = Packed {
        sha256: sha256(&archive),
        bytes: archive.len() as u64,
        unpacked_bytes: 4096,
    };
    assert!(unpack(archive.as_slice(), &announced, &mut Kept::default()).is_err());
}

#[test]
fn a_content_that_is_not_what_was_named_is_not_packed() {
    let name = sha256(b"content");
    for content in [b"another".as_slice(), b"conten", b"content and more"] {
        let mut packer = Packer::new(vec![]).unwrap();
        let added = packer.add(&name, 7, content);
        // More than was named is not looked at: the file was that long when it was named.
        assert_eq!(added.is_ok(), content.starts_with(b"content"), "{content:?}");
    }
}

#[test]
fn unwanted_members_are_passed_over_where_that_is_allowed() {
    let (archive, packed) = packed([b"dead".as_slice(), b"alive", &[1; 10_000]]);
    let mut kept = Kept::wanting([b"alive".as_slice()]);
    kept.others = true;
    unpack(archive.as_slice(), &packed, &mut kept).unwrap();
    assert_eq!(kept.found.into_values().collect::<Vec<_>>(), [b"alive"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn contents_come_back_as_they_were(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20)) {
        let slices = || contents.iter().map(Vec::as_slice);
        let (archive, packed) = packed(slices());
        prop_assert!(is_sha256(&packed.sha256));
        let mut kept = Kept::wanting(slices());
        unpack(archive.as_slice(), &packed, &mut kept).unwrap();
        let expected: BTreeMap<String, Vec<u8>> = contents.iter().map(|content| (sha256(content), content.clone())).collect();
        prop_assert_eq!(kept.found, expected);
        // Made again, it is the same: that is how it is sent when it does not fit into memory.
        let (again, same) = self::packed(slices());
        prop_assert!(again == archive && same == packed);
    }

    #[test]
    fn a_damaged_archive_gives_no_wrong_content(at: prop::sample::Index, bit in 0_u8..8) {
        let contents = [b"content".as_slice(), &[3; 2000], b"more"];
        let (mut archive, packed) = packed(contents);
        let at = at.index(archive.len());
        archive[at] ^= 1 << bit;
        let mut kept = Kept::wanting(contents);
        prop_assert!(unpack(archive.as_slice(), &packed, &mut kept).is_err());
        for (name, content) in kept.found {
            prop_assert_eq!(name, sha256(&content));
        }
    }
}
