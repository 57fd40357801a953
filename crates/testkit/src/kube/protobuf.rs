//! Reading the one object that kubectl sends in the binary form whatever it is told: a `SelfSubjectAccessReview`.

use serde_json::{Value, json};

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Fields of `ResourceAttributes`, from 1.
const ATTRIBUTES: [&str; 7] = [
    "namespace",
    "verb",
    "group",
    "version",
    "resource",
    "subresource",
    "name",
];

/// The review as it would be in JSON; nothing when the body is of another form.
pub(super) fn review(body: &[u8]) -> Option<Value> {
    let envelope = body.strip_prefix(MAGIC)?;
    let object = field(envelope, 2)?;
    let attributes = field(field(object, 2)?, 1)?;
    let mut found = json!({});
    for (number, name) in (1..).zip(ATTRIBUTES) {
        let text = field(attributes, number).unwrap_or_default();
        found[name] = String::from_utf8_lossy(text).into_owned().into();
    }
    Some(json!({"spec": {"resourceAttributes": found}}))
}

/// The bytes of the first field of this number.
fn field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                varint(&mut message)?;
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (content, rest) = message.split_at_checked(length)?;
                if key >> 3 == wanted {
                    return Some(content);
                }
                message = rest;
            }
            _ => return None,
        }
    }
    None
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
