//! Tokens counted by us where the provider does not say.

use agent::ports::{ModelReply, ModelRequest};
use agent::purse::{chars, request_tokens, tokens};
use domain::Usage;

/// Request and reply at four characters a token, rounded up; marked as estimated.
pub(super) fn estimate(request: &ModelRequest, reply: &ModelReply) -> Usage {
    let calls = reply
        .tool_calls
        .iter()
        .map(|call| chars(&call.name) + chars(&call.input.to_string()))
        .sum::<usize>();
    let text = reply.text.as_deref().map_or(0, chars);
    Usage {
        input_tokens: request_tokens(request),
        output_tokens: tokens(text + calls),
        is_estimated: true,
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;
    use agent::ports::ChatMessage;

    #[test]
    fn four_characters_are_a_token_rounded_up() {
        let mut request = sample::request();
        request.system = "abcde".into();
        request.messages = vec![ChatMessage::User("äö€".into())];
        let mut reply = sample::reply();
        reply.text = Some("abcde".into());
        let usage = estimate(&request, &reply);
        assert_eq!((usage.input_tokens, usage.output_tokens), (2, 2));
        assert!(usage.is_estimated);
    }
}
