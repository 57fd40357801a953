//! Which keys name a secret or a personal detail.

use super::{REDACTED, REDACTED_EMAIL, REDACTED_PHONE};

const SECRETS: [&str; 17] = [
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "password",
    "passphrase",
    "secret",
    "api_key",
    "admin_key",
    "apikey",
    "x_api_key",
    "access_token",
    "refresh_token",
    "token",
    "client_secret",
    "private_key",
    "x_oa_runtime_signature",
];

const SECRET_ENDINGS: [&str; 6] = [
    "_token",
    "_secret",
    "_password",
    "_api_key",
    "_apikey",
    "_admin_key",
];

/// What becomes of the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Secret,
    /// With what stands for it.
    Personal(&'static str),
}

/// The rule of a key; none for an ordinary one.
pub(super) fn rule(key: &str) -> Option<Rule> {
    let key = normalised(key);
    let secret = SECRETS.contains(&key.as_str()) || SECRET_ENDINGS.iter().any(|ending| key.ends_with(ending));
    if secret {
        return Some(Rule::Secret);
    }
    match key.as_str() {
        "email" | "e_mail" => Some(Rule::Personal(REDACTED_EMAIL)),
        "phone" | "phone_number" => Some(Rule::Personal(REDACTED_PHONE)),
        "ssn" | "address" | "street" | "postal_code" | "zip" => Some(Rule::Personal(REDACTED)),
        _ => None,
    }
}

/// Lower case, trimmed, `-` as `_`, camelCase split: `accessToken` is `access_token`.
pub(super) fn normalised(key: &str) -> String {
    let chars: Vec<char> = key.trim().chars().collect();
    let mut out = String::with_capacity(chars.len() + 4);
    for (at, &char) in chars.iter().enumerate() {
        if char.is_uppercase() && at > 0 {
            let before = chars[at - 1];
            let next_is_lower = chars.get(at + 1).is_some_and(|next| next.is_lowercase());
            let ends_word = before.is_lowercase() || before.is_ascii_digit();
            if ends_word || (before.is_uppercase() && next_is_lower) {
                out.push('_');
            }
        }
        match char {
            '-' => out.push('_'),
            other => out.extend(other.to_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_in_one_spelling() {
        for (key, spelled) in [
            ("accessToken", "access_token"),
            ("X-OA-RUNTIME-SIGNATURE", "x_oa_runtime_signature"),
            (" Set-Cookie ", "set_cookie"),
            ("OpenAIAPIKey", "open_aiapi_key"),
            ("APIKey", "api_key"),
            ("userID", "user_id"),
        ] {
            assert_eq!(normalised(key), spelled);
        }
    }

    #[test]
    fn every_listed_key_and_ending_hits_and_its_neighbours_do_not() {
        for key in SECRETS {
            assert_eq!(rule(key), Some(Rule::Secret), "{key}");
        }
        for key in [
            "stripe_secret",
            "userPassword",
            "X_APIKEY",
            "my-admin-key",
            "bot_token",
        ] {
            assert_eq!(rule(key), Some(Rule::Secret), "{key}");
        }
        for key in [
            "total_tokens",
            "token_count",
            "authorization_mode",
            "bind_address",
            "secretary",
            "key",
            "zipper",
        ] {
            assert_eq!(rule(key), None, "{key}");
        }
    }
}
