use super::*;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::io::Read;

const LIMITS: Limits = Limits {
    file_bytes: 1000,
    total_bytes: 3000,
    files: 5,
    output_bytes: 0,
};

fn file(content: &[u8]) -> File {
    File {
        sha256: format!("{:x}", Sha256::digest(content)),
        bytes: content.len() as u64,
        mode: 0o600,
    }
}

fn manifest(paths: &[&str]) -> BTreeMap<String, File> {
    paths
        .iter()
        .map(|path| ((*path).to_owned(), file(path.as_bytes())))
        .collect()
}

fn place(root: &Path, files: &BTreeMap<String, File>, contents: &[&[u8]]) {
    let mut placer = Placer::new(root, files);
    for content in contents {
        let named = file(content);
        placer.place(&named.sha256, &mut &content[..]).unwrap();
    }
    assert_eq!(placer.missing(), None);
}

#[test]
fn paths_have_one_form() {
    let (long, name) = ("x".repeat(255) + "/" + &"y".repeat(255), "x".repeat(256));
    for good in ["a", "a/b.txt", "...", "a..b", "ü/é", "-", " ", long.as_str()] {
        assert!(is_path(good), "{good}");
    }
    let bad = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "./a",
        "a/.",
        "..",
        "../a",
        "a/../b",
        ".agent",
        ".agent/x",
        "a/.AGENT/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\u{7f}",
        name.as_str(),
    ];
    for bad in bad {
        assert!(!is_path(bad), "{bad:?}");
    }
    assert!(!is_path(&(long + "/z")));
}

#[test]
fn files_that_would_be_directories_of_others_are_refused() {
    for paths in [["a", "a/b"], ["a/b", "a/b/c/d"], ["a", "a/b/c"]] {
        assert!(
            matches!(check(&manifest(&paths), &LIMITS), Err(TreeError::InvalidPath(_))),
            "{paths:?}"
        );
    }
    check(&manifest(&["a", "a.b", "ab/c", "a-b"]), &LIMITS).unwrap();
}

#[test]
fn limits_are_checked_before_anything_is_written() {
    let sized = |sizes: &[u64]| -> BTreeMap<String, File> {
        let files = sizes.iter().enumerate();
        files
            .map(|(number, bytes)| {
                let mut file = file(number.to_string().as_bytes());
                file.bytes = *bytes;
                (number.to_string(), file)
            })
            .collect()
    };
    check(&sized(&[1000, 1000, 1000]), &LIMITS).unwrap();
    for sizes in [
        &[1001][..],
        &[1000, 1000, 1000, 1],
        &[0; 6],
        &[u64::MAX, u64::MAX],
    ] {
        assert!(
            matches!(check(&sized(sizes), &LIMITS), Err(TreeError::LimitExceeded)),
            "{sizes:?}"
        );
    }
}

#[test]
fn one_content_of_two_sizes_and_odd_modes_are_refused() {
    let mut files = manifest(&["a", "b"]);
    let content = files["a"].sha256.clone();
    files.get_mut("b").unwrap().sha256 = content;
    files.get_mut("b").unwrap().bytes = 7;
    assert!(matches!(check(&files, &LIMITS), Err(TreeError::Manifest(_))));
    for mode in [0, 0o644, 0o4700, 0o777] {
        let mut files = manifest(&["a"]);
        files.get_mut("a").unwrap().mode = mode;
        assert!(
            matches!(check(&files, &LIMITS), Err(TreeError::Manifest(_))),
            "{mode:o}"
        );
    }
}

#[test]
fn a_file_is_never_written_through_a_link_or_over_another() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(outside.path().join("target"), dir.path().join("link")).unwrap();
    std::fs::write(dir.path().join("there"), "old").unwrap();
    for path in ["link", "there"] {
        let files = manifest(&[path]);
        let mut placer = Placer::new(dir.path(), &files);
        let done = placer.place(&files[path].sha256, &mut path.as_bytes());
        assert!(done.is_err(), "{path}");
        assert_eq!(placer.missing(), Some(path));
    }
    assert!(!outside.path().join("target").exists());
    assert_eq!(std::fs::read(dir.path().join("there")).unwrap(), b"old");
}

#[test]
fn a_content_that_breaks_off_leaves_no_file_and_can_come_again() {
    struct Breaks(u8);
    impl Read for Breaks {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 {
                return Err(io::Error::other("cut"));
            }
            buf[0] = b'x';
            Ok(1)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let files = manifest(&["sub/a"]);
    let mut placer = Placer::new(dir.path(), &files);
    let sha256 = files["sub/a"].sha256.clone();
    assert!(placer.place(&sha256, &mut Breaks(0)).is_err());
    assert!(!dir.path().join("sub/a").exists());
    placer.place(&sha256, &mut b"sub/a".as_slice()).unwrap();
    assert_eq!(std::fs::read(dir.path().join("sub/a")).unwrap(), b"sub/a");
}

#[test]
fn an_unchanged_tree_has_no_changes_and_a_change_of_the_same_size_is_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let files: BTreeMap<String, File> = [("a", b"aaaa"), ("b/c", b"cccc")]
        .map(|(path, content)| (path.to_owned(), file(content)))
        .into();
    place(dir.path(), &files, &[b"aaaa", b"cccc"]);
    let before = Before::look(dir.path(), &files, &LIMITS).unwrap();
    assert_eq!(changes(dir.path(), &before, &LIMITS).unwrap(), Changes::default());
    // Within the same step of the kernel's clock, mostly.
    std::fs::write(dir.path().join("a"), b"AAAA").unwrap();
    let found = changes(dir.path(), &before, &LIMITS).unwrap();
    assert_eq!(found.changed, BTreeMap::from([("a".to_owned(), file(b"AAAA"))]));
    assert!(found.added.is_empty() && found.deleted.is_empty());
}

#[test]
fn links_devices_and_our_own_directory_are_no_files() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    std::fs::create_dir(dir.path().join(".agent")).unwrap();
    std::fs::write(dir.path().join(".agent/x"), "x").unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert_eq!(
        walk(dir.path(), 10).unwrap().files.keys().collect::<Vec<_>>(),
        ["file"]
    );
    assert!(open(&dir.path().join("link")).is_err());
}

#[test]
fn names_that_cannot_be_keys_are_told_and_all_others_are_kept() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for name in [b"a\\b".as_slice(), b"a\nb", b"a\xff", b".AGENT"] {
        let dir = tempfile::tempdir().unwrap();
        let odd = OsStr::from_bytes(name);
        std::fs::write(dir.path().join(odd), "x").unwrap();
        std::fs::write(dir.path().join("fine"), "x").unwrap();
        let walked = walk(dir.path(), 10).unwrap();
        assert_eq!(walked.fault(), Some(format!("Invalid path: {}", odd.display())));
        assert_eq!(walked.files.keys().collect::<Vec<_>>(), ["fine"]);
    }
    // A directory counts by its files.
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(OsStr::from_bytes(b"d\xff"));
    std::fs::create_dir_all(odd.join("empty")).unwrap();
    assert_eq!(walk(dir.path(), 10).unwrap(), Walked::default());
    (0..5).for_each(|number| std::fs::write(odd.join(number.to_string()), "x").unwrap());
    let walked = walk(dir.path(), 10).unwrap();
    let told = "Invalid path: d\u{fffd}/0, d\u{fffd}/1, d\u{fffd}/2 and 2 more";
    assert_eq!(walked.fault().as_deref(), Some(told));
    assert!(walked.files.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..4).fold(dir.path().to_owned(), |dir, _| dir.join("x".repeat(200)));
    std::fs::create_dir_all(deep).unwrap();
    assert_eq!(walk(dir.path(), 10).unwrap().odd.len(), 1);
}

#[test]
fn too_many_files_are_refused_before_they_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    (0..6).for_each(|number| std::fs::write(dir.path().join(number.to_string()), "").unwrap());
    assert!(matches!(walk(dir.path(), 5), Err(TreeError::LimitExceeded)));
    assert_eq!(walk(dir.path(), 6).unwrap().files.len(), 6);
    assert_eq!(used(dir.path(), 100).0, 6);
}

#[test]
fn files_that_claim_to_be_endless_are_too_large_also_together() {
    // A file system in memory takes any length of a file with a hole.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["a", "b", "c"] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.set_len(i64::MAX as u64).unwrap();
    }
    let nothing = BTreeMap::new();
    let before = Before {
        files: &nothing,
        stamps: BTreeMap::new(),
        recent: 0,
    };
    let limits = Limits {
        file_bytes: u64::MAX,
        ..LIMITS
    };
    assert!(matches!(
        changes(dir.path(), &before, &limits),
        Err(TreeError::LimitExceeded)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_is_what_its_manifest_says(names in prop::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,3}", prop::collection::vec(any::<u8>(), 0..50), 0..8)) {
        let limits = Limits { files: 8, ..LIMITS };
        let files: BTreeMap<String, File> = names.iter().map(|(path, content)| (path.clone(), file(content))).collect();
        prop_assume!(check(&files, &limits).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<&[u8]> = names.values().map(Vec::as_slice).collect();
        place(dir.path(), &files, &contents);
        for (path, content) in &names {
            prop_assert_eq!(&std::fs::read(dir.path().join(path)).unwrap(), content);
        }
        let nothing = BTreeMap::new();
        let before = Before { files: &nothing, stamps: BTreeMap::new(), recent: 0 };
        let found = changes(dir.path(), &before, &limits).unwrap();
        prop_assert_eq!(found.added, files);
    }
}
