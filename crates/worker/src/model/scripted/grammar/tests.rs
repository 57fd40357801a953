//! The table of prompts.

use super::*;

fn list() -> Instruction {
    Instruction::ListFiles
}

fn write(file: &str, text: &str) -> Instruction {
    Instruction::Write {
        file: file.into(),
        text: text.into(),
    }
}

fn read(file: &str) -> Instruction {
    Instruction::Read { file: file.into() }
}

fn run(command: &str) -> Instruction {
    Instruction::Run {
        command: command.into(),
    }
}

fn python(code: &str) -> Instruction {
    Instruction::Python { code: code.into() }
}

fn ask(question: &str) -> Instruction {
    Instruction::Ask {
        question: question.into(),
    }
}

fn wait(ms: u64) -> Instruction {
    Instruction::Wait { ms }
}

fn check(table: Vec<(&str, Vec<Instruction>)>) {
    for (prompt, expected) in table {
        assert_eq!(parse(prompt).instructions, expected, "{prompt:?}");
    }
}

#[test]
fn single_instructions_are_understood() {
    check(vec![
        ("list files", vec![list()]),
        ("LIST FILES", vec![list()]),
        ("List all the files in the workspace.", vec![list()]),
        ("Please list my files", vec![list()]),
        ("create test.txt", vec![write("test.txt", "")]),
        ("create a test.txt file", vec![write("test.txt", "")]),
        (
            "Create a new file called \"my notes.md\"",
            vec![write("my notes.md", "")],
        ),
        ("write notes/a-b_c.tar.gz.", vec![write("notes/a-b_c.tar.gz", "")]),
        (
            "write hello.txt with Hello World",
            vec![write("hello.txt", "Hello World")],
        ),
        (
            "Write hello.txt containing Hello!",
            vec![write("hello.txt", "Hello!")],
        ),
        ("create a.txt with content: 42", vec![write("a.txt", "42")]),
        (
            "create a.txt with the text it works",
            vec![write("a.txt", "it works")],
        ),
        ("create a.txt with text", vec![write("a.txt", "text")]),
        ("create ../x.txt", vec![write("../x.txt", "")]),
        ("read (../../x.txt)!", vec![read("../../x.txt")]),
        ("create /x.txt", vec![write("/x.txt", "")]),
        (
            "create a file `a.txt` with 'it's ok'",
            vec![write("a.txt", "it's ok")],
        ),
        ("Create ü/größe.txt with ä", vec![write("ü/größe.txt", "ä")]),
        ("read test.txt", vec![read("test.txt")]),
        ("Could you read the file test.txt?", vec![read("test.txt")]),
        ("run `ls -la`", vec![run("ls -la")]),
        (
            "Run the command: `echo a, b; echo c`",
            vec![run("echo a, b; echo c")],
        ),
        ("run ```bash\nls\nls\n```", vec![run("ls\nls")]),
        ("run ``echo `date` ``", vec![run("echo `date`")]),
        ("python `print(1)`", vec![python("print(1)")]),
        (
            "run python code `x = [1, 2]; print(x)`",
            vec![python("x = [1, 2]; print(x)")],
        ),
        ("ask Which colour?", vec![ask("Which colour?")]),
        (
            "ask the user: \"Red, blue and what then?\"",
            vec![ask("Red, blue and what then?")],
        ),
        ("wait 2 seconds", vec![wait(2000)]),
        ("Wait for 0.5 s", vec![wait(500)]),
        ("wait 1 second", vec![wait(1000)]),
        ("wait 3s", vec![wait(3000)]),
    ]);
}

#[test]
fn instructions_are_joined_by_every_separator() {
    check(vec![
        (
            "List files and create a test.txt file",
            vec![list(), write("test.txt", "")],
        ),
        (
            "list files, create a.txt; read a.txt then run `ls`",
            vec![list(), write("a.txt", ""), read("a.txt"), run("ls")],
        ),
        (
            "list files AND THEN create a.txt, and then wait 1 seconds",
            vec![list(), write("a.txt", ""), wait(1000)],
        ),
        (
            "1. List files.\n2. Read a.txt.\n- run `x`",
            vec![list(), read("a.txt"), run("x")],
        ),
        ("Hello! Please list files. Thanks and bye", vec![list()]),
        ("summarise the news, then read b.md and think", vec![read("b.md")]),
        ("ask your name and list files", vec![ask("your name"), list()]),
        (
            "ask Which colour? then list files",
            vec![ask("Which colour?"), list()],
        ),
        (
            "ask Why? List files. Write a.txt with Done! Read a.txt",
            vec![ask("Why?"), list(), write("a.txt", "Done!"), read("a.txt")],
        ),
        ("run `a`; run `b`;run `c`", vec![run("a"), run("b"), run("c")]),
    ]);
}

#[test]
fn a_text_goes_on_to_the_next_instruction() {
    check(vec![
        (
            "create a.txt with salt and pepper and read a.txt",
            vec![write("a.txt", "salt and pepper"), read("a.txt")],
        ),
        (
            "create a.txt with one, two; three, then list files",
            vec![write("a.txt", "one, two; three"), list()],
        ),
        (
            "create a.txt with \"x and list files, y\" and list files",
            vec![write("a.txt", "x and list files, y"), list()],
        ),
        (
            "write a.txt with “a, b” then write b.txt with 'c; d'",
            vec![write("a.txt", "a, b"), write("b.txt", "c; d")],
        ),
        (
            "write a.txt with hello and write b.txt containing world",
            vec![write("a.txt", "hello"), write("b.txt", "world")],
        ),
    ]);
}

#[test]
fn other_prompts_hold_no_instruction() {
    for prompt in [
        "",
        "   \n",
        "What is the meaning of life?",
        "Write a poem about lists",
        "read the news",
        "create something with 1.5 litres",
        "run ls",
        "run ``",
        "python print(1)",
        "wait for it",
        "wait -1 seconds",
        "wait 2 hours",
        "ask",
        "I listed files and created test.txt",
        "read https://example.com/a.html",
        "\u{feff}, and then; and",
    ] {
        assert_eq!(parse(prompt).instructions, vec![], "{prompt:?}");
    }
}

#[test]
fn long_prompts_take_no_quadratic_time() {
    let prompt = format!("create a.txt with {}", "word and `x` \"y\" , ".repeat(5_000));
    assert_eq!(parse(&prompt).instructions.len(), 1);
    for piece in ["`\"", "\"a, ", "`` a, `", "and \""] {
        assert_eq!(parse(&piece.repeat(8_000)).instructions, vec![], "{piece}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_prompt_makes_it_panic(prompt in "(list files|create|a\\.b|with|run|wait|ask|`|\"|'|and|then|[,;.: \\n]|é|\\PC){0,40}") {
            parse(&prompt);
        }
    }
}
