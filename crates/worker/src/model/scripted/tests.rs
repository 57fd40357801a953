//! The script items, one rule each.

use super::*;
use crate::model::sample;
use domain::Plan;
use std::io::Write;

fn request(prompt: &Value, number: u32, attempt: u32) -> ModelRequest {
    let mut request = sample::request();
    request.prompt = match prompt {
        Value::String(text) => text.clone(),
        script => script.to_string(),
    };
    request.purpose = Purpose::Turn { number };
    request.attempt = attempt;
    request
}

async fn turn(prompt: &Value, number: u32) -> ModelReply {
    let cancel = CancellationToken::new();
    Scripted::default()
        .call(&request(prompt, number, 1), &cancel)
        .await
        .unwrap()
}

async fn plan(model: &Scripted, prompt: &Value) -> String {
    let mut request = request(prompt, 0, 1);
    request.purpose = Purpose::Plan { repairs: 1 };
    let reply = model.call(&request, &CancellationToken::new()).await.unwrap();
    reply.text.unwrap()
}

fn action(reply: &ModelReply) -> Value {
    serde_json::from_str(reply.text.as_deref().unwrap()).unwrap()
}

#[tokio::test]
async fn items_are_given_one_per_turn_and_the_end_is_task_complete() {
    let prompt = json!({"script": [
        {"type": "tool", "tool_name": "shell", "tool_input": {"command": "ls"}, "reasoning": "look"},
        [{"type": "tool", "tool_name": "file_read", "tool_input": {"filepath": "a"}},
         {"type": "tool", "tool_name": "file_list"}],
        {"type": "message", "message": "hi"},
        {"type": "raw", "text": "```json\n{}\n```"},
        {"type": "bogus"},
        [{"type": "message", "message": "x"}],
    ]});
    let first = turn(&prompt, 1).await;
    assert_eq!(first.tool_calls[0].id, "call_1_0");
    assert_eq!(first.tool_calls[0].input, json!({"command": "ls"}));
    assert_eq!(
        (first.text.as_deref(), first.stop),
        (Some("look"), StopReason::ToolUse)
    );
    let second = turn(&prompt, 2).await;
    let ids: Vec<_> = second.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["call_2_0", "call_2_1"]);
    assert_eq!(second.tool_calls[1].input, json!({}));
    assert_eq!(
        action(&turn(&prompt, 3).await),
        json!({"type": "message", "message": "hi"})
    );
    assert_eq!(turn(&prompt, 4).await.text.as_deref(), Some("```json\n{}\n```"));
    assert_eq!(action(&turn(&prompt, 5).await)["type"], "bogus");
    assert_eq!(action(&turn(&prompt, 6).await)[0]["type"], "message");
    for number in [7, 8, 50] {
        assert_eq!(action(&turn(&prompt, number).await)["type"], "task_complete");
    }
    assert_eq!(turn(&prompt, 1).await, first);
    assert!(first.usage.is_estimated && first.usage.total() > 0);
}

#[tokio::test]
async fn an_error_fails_its_turn_while_the_attempt_is_low() {
    let prompt = json!({"script": [
        {"type": "message", "message": "a"},
        {"type": "error", "status": 503, "attempts": 2, "retry_after": 1.5},
        {"type": "message", "message": "b"},
        {"type": "error", "status": 400},
    ]});
    let call = async |number, attempt| {
        Scripted::default()
            .call(&request(&prompt, number, attempt), &CancellationToken::new())
            .await
    };
    assert!(call(1, 1).await.is_ok());
    for attempt in [1, 2] {
        let Err(ModelError::Transient {
            status: Some(503),
            retry_after,
            try_again_here: false,
            ..
        }) = call(2, attempt).await
        else {
            panic!("attempt {attempt} must fail");
        };
        assert_eq!(retry_after, Some(Duration::from_millis(1500)));
    }
    assert_eq!(action(&call(2, 3).await.unwrap())["message"], "b");
    let refused = call(3, 9).await.unwrap_err();
    assert!(matches!(
        refused,
        ModelError::Permanent {
            status: Some(400),
            ..
        }
    ));
    assert!(call(4, 1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sleep_is_slept_and_can_be_cancelled() {
    let prompt = json!({"script": [{"type": "sleep", "ms": 60_000}, {"type": "message", "message": "a"}]});
    let started = tokio::time::Instant::now();
    turn(&prompt, 1).await;
    assert_eq!(started.elapsed(), Duration::from_mins(1));
    assert_eq!(action(&turn(&prompt, 2).await)["type"], "task_complete");
    assert_eq!(started.elapsed(), Duration::from_mins(1));

    let cancel = CancellationToken::new();
    let model = Scripted::default();
    let request = request(&prompt, 1, 1);
    let call = model.call(&request, &cancel);
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(call, stop);
    assert!(matches!(result, Err(ModelError::Cancelled)));
    assert_eq!(started.elapsed(), Duration::from_secs(61));
}

#[tokio::test]
async fn the_plan_is_given_as_it_stands_or_made() {
    let model = Scripted::default();
    let bad = json!({"phases": []});
    let prompt = json!({"script": [], "plan": bad});
    assert_eq!(plan(&model, &prompt).await, bad.to_string());
    let prompt = json!({"script": [], "plan": "no plan"});
    assert_eq!(plan(&model, &prompt).await, "no plan");
    let tools = json!([{"type": "tool", "tool_name": "code"}, [{"type": "tool", "tool_name": "browser"}]]);
    let made: Value = serde_json::from_str(&plan(&model, &json!({"script": tools})).await).unwrap();
    assert_eq!(Plan::from_value(&made).unwrap().phases.len(), 1);
    assert_eq!(made["total_estimated_credits"], 5);
}

#[tokio::test]
async fn instructions_become_tool_calls_with_phases_between_them() {
    let prompt = json!("List files and create a test.txt file, then ask Why? and wait 0 seconds");
    let made: Value = serde_json::from_str(&plan(&Scripted::default(), &prompt).await).unwrap();
    assert_eq!(Plan::from_value(&made).unwrap().phases.len(), 4);
    assert_eq!(turn(&prompt, 1).await.tool_calls[0].name, "file_list");
    assert_eq!(action(&turn(&prompt, 2).await)["type"], "phase_complete");
    let write = turn(&prompt, 3).await.tool_calls.remove(0);
    assert_eq!(
        (write.name.as_str(), write.input),
        ("file_write", json!({"filepath": "test.txt", "content": ""}))
    );
    let kinds = [
        (4, "phase_complete"),
        (5, "request_input"),
        (6, "phase_complete"),
        (7, "message"),
        (8, "task_complete"),
        (9, "task_complete"),
    ];
    for (number, kind) in kinds {
        assert_eq!(action(&turn(&prompt, number).await)["type"], kind, "{number}");
    }
}

#[tokio::test]
async fn a_prompt_without_instruction_is_told_what_this_is() {
    let prompt = json!("Make me rich");
    let first = action(&turn(&prompt, 1).await);
    assert_eq!(first["type"], "task_complete", "one message, and the end");
    for part in [
        "offline",
        "list files",
        "wait N seconds",
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "LLM_PRIMARY_PROVIDER",
    ] {
        assert!(first["message"].as_str().unwrap().contains(part), "{part}");
    }
}

#[tokio::test]
async fn the_end_of_a_plain_prompt_tells_of_the_calls_that_failed() {
    let mut request = request(&json!("read test.txt"), 2, 1);
    let result = |is_error, content: Value| ChatMessage::ToolResult {
        call_id: "call_1_0".to_owned(),
        name: "file_read".to_owned(),
        content: content.to_string(),
        is_error,
    };
    let error = json!({"success": false, "error": "File not found: test.txt", "output": {}});
    for (results, said) in [
        (
            vec![result(false, json!({"content": "x"}))],
            "All instructions are carried out.",
        ),
        (
            vec![result(true, error)],
            "Not all instructions are carried out. Failed: file_read (File not found: test.txt).",
        ),
    ] {
        request.messages = results;
        for number in [2, 3] {
            request.purpose = Purpose::Turn { number };
            let reply = Scripted::default()
                .call(&request, &CancellationToken::new())
                .await;
            assert_eq!(action(&reply.unwrap())["message"], said, "{number}");
        }
    }
}

#[tokio::test]
async fn a_script_file_is_read_in_json_and_yaml_and_the_prompt_wins() {
    let yaml = "plan: {goal: g}\nscript:\n  - {type: message, message: from file}\n";
    let json = r#"{"plan": {"goal": "g"}, "script": [{"type": "message", "message": "from file"}]}"#;
    for text in [yaml, json] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let model = Scripted::from_file(file.path().to_str().unwrap()).unwrap();
        let say = async |prompt: Value| {
            let reply = model
                .call(&request(&prompt, 1, 1), &CancellationToken::new())
                .await;
            action(&reply.unwrap())["message"].clone()
        };
        assert_eq!(say(json!("list files")).await, "from file");
        let own = json!({"script": [{"type": "message", "message": "own"}]});
        assert_eq!(say(own).await, "own");
        assert_eq!(plan(&model, &json!("list files")).await, r#"{"goal":"g"}"#);
    }
}

#[test]
fn a_script_file_that_is_none_is_refused_with_its_name() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"just text").unwrap();
    let path = file.path().to_str().unwrap();
    for path in [path, "/nonexistent/script.yaml"] {
        let text = Scripted::from_file(path).unwrap_err().to_string();
        assert!(text.contains(path), "{text}");
    }
}
