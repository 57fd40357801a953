//! Tokens counted by us where the provider does not say.

use agent::ports::{ChatMessage, ModelReply, ModelRequest};
use domain::Usage;

/// Characters taken as one token.
const CHARS_PER_TOKEN: usize = 4;

/// Request and reply at four characters a token, rounded up; marked as estimated.
pub(super) fn estimate(request: &ModelRequest, reply: &ModelReply) -> Usage {
    let messages = request.messages.iter().map(message_chars).sum::<usize>();
    let tools = request
        .tools
        .iter()
        .map(|tool| chars(&tool.name) + chars(&tool.description) + chars(&tool.input_schema.to_string()))
        .sum::<usize>();
    let calls = reply
        .tool_calls
        .iter()
        .map(|call| chars(&call.name) + chars(&call.input.to_string()))
        .sum::<usize>();
    let text = reply.text.as_deref().map_or(0, chars);
    Usage {
        input_tokens: tokens(chars(&request.system) + messages + tools),
        output_tokens: tokens(text + calls),
        is_estimated: true,
    }
}

fn message_chars(message: &ChatMessage) -> usize {
    match message {
        ChatMessage::User(text) => chars(text),
        ChatMessage::Assistant { text, tool_calls } => {
            let calls = tool_calls
                .iter()
                .map(|call| chars(&call.name) + chars(&call.input.to_string()));
            text.as_deref().map_or(0, chars) + calls.sum::<usize>()
        }
        ChatMessage::ToolResult { content, .. } => chars(content),
    }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

fn tokens(chars: usize) -> i64 {
    chars.div_ceil(CHARS_PER_TOKEN) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

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
