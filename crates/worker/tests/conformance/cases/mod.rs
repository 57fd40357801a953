//! The cases: async functions over a [`Backend`]. A test binary makes a backend and turns the list of [`for_each_case`] into
//! tests, one for each.
//!
//! A case knows nothing of how a sandbox works. What kinds of sandboxes cannot have in common is in [`Traits`].

pub(crate) mod ending;
pub(crate) mod exits;
pub(crate) mod files;
pub(crate) mod forbidden;
pub(crate) mod isolation;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod paths;

use agent::ports::{
    FileInfo, OutputPiece, OutputStream, Program, Sandbox, SandboxError, SandboxEvents, SandboxOutput,
    SandboxRequest, Unheard,
};
use bytes::Bytes;
use clap::Parser;
use domain::{Ids, RunId, StepId, SystemIds, UserId};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::S3;
use tokio_util::sync::CancellationToken;
use worker::sandbox::AnySandbox;
use worker::workspace::{RunWorkspace, S3Options, Workspaces};

/// Calls the given macro with the path of every case below this module.
macro_rules! for_each_case {
    ($with:ident) => {
        $with! {
            exits::exit_codes_come_back_as_they_are,
            exits::a_signal_is_told_as_128_and_its_number,
            exits::a_program_that_is_not_there_or_may_not_be_executed_is_told_by_its_shell,
            exits::bad_input_is_refused_before_anything_runs,
            exits::every_installed_language_runs_in_the_working_directory,
            output::both_streams_come_back_apart,
            output::a_hundred_megabytes_on_each_stream_are_read_to_the_end_and_cut_at_a_mebibyte,
            output::what_is_not_text_becomes_text_that_any_store_takes,
            output::pieces_are_told_in_order_and_without_loss,
            output::pieces_are_told_while_the_program_runs,
            limits::the_time_limit_keeps_output_and_files,
            limits::a_program_may_tidy_up_at_the_time_limit,
            limits::a_fork_bomb_is_contained,
            limits::one_process_cannot_take_more_memory_than_allowed,
            limits::all_processes_together_cannot_either,
            limits::a_killed_child_does_not_go_unmentioned,
            limits::a_full_disk_is_the_programs_own,
            files::files_go_in_and_changes_come_out,
            files::ten_thousand_small_files_come_out_and_go_in,
            files::what_is_too_large_fails_the_step_and_changes_nothing,
            files::runs_do_not_see_each_other,
            files::a_file_and_a_directory_may_change_places,
            files::everything_can_be_deleted,
            files::steps_of_one_run_see_what_the_one_before_left,
            paths::names_of_any_script_and_with_odd_characters_survive,
            paths::names_that_no_path_may_have_fail_the_step,
            paths::a_program_stays_one_over_steps,
            paths::a_file_in_the_place_of_a_directory_fails_the_call_alone,
            paths::links_are_neither_followed_nor_stored,
            paths::a_file_that_became_a_link_is_gone_from_the_store,
            paths::removed_permissions_hide_nothing,
            paths::our_own_directory_is_not_touched,
            paths::the_working_directory_is_the_asked_one,
            ending::a_tree_that_ignores_term_is_gone_after_the_time_limit,
            ending::background_processes_end_with_the_program,
            ending::cancelling_leaves_no_process_and_stores_nothing,
            ending::cancelling_before_the_start_runs_nothing,
            ending::many_run_beside_each_other,
            isolation::the_environment_holds_nothing_of_ours,
            isolation::processes_of_the_host_cannot_be_seen,
            isolation::there_is_no_network,
            isolation::the_system_cannot_be_written,
            isolation::no_rights_are_left,
            forbidden::what_is_forbidden_fails,
        }
    };
}
pub(crate) use for_each_case;

/// One kind of sandbox, made for one case.
pub(crate) struct Backend {
    pub sandbox: AnySandbox,
    pub workspaces: Workspaces,
    /// The store as this machine reaches it.
    pub store: String,
    pub traits: Traits,
    /// What must live as long: servers, directories.
    #[expect(dead_code, reason = "held for its drop")]
    pub kept: Vec<Box<dyn Any + Send + Sync>>,
}

/// What is not the same for all.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Traits {
    /// The tools' processes are processes of this machine: survivors can be looked for.
    pub shares_machine: bool,
    /// One sandbox cannot have all processes of the machine.
    pub limits_processes: bool,
    pub limits_memory: bool,
    /// The kernel counts the processes it kills for want of memory.
    pub tells_of_killed_children: bool,
    /// Programs inside can talk to each other over the loopback device.
    pub has_loopback: bool,
    /// From a stop to the end of the last process.
    pub stops_within: Duration,
    /// Host and port of a Kubernetes API server.
    pub api_server: Option<(String, u16)>,
}

const FILE_BYTES: &str = "8388608";
const TOTAL_BYTES: &str = "67108864";

/// Workspaces on a real store, with limits that a test can reach: 8 MiB a file, 64 MiB in all.
pub(crate) fn workspaces_on(s3: &S3) -> Workspaces {
    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        s3: S3Options,
    }
    let options = Options::parse_from([
        "test",
        "--s3-endpoint",
        &s3.endpoint(),
        "--s3-workspace-bucket",
        s3.bucket(),
        "--s3-access-key",
        s3.access_key(),
        "--s3-secret-key",
        s3.secret_key(),
        "--workspace-max-file-bytes",
        FILE_BYTES,
        "--workspace-max-bytes",
        TOTAL_BYTES,
    ]);
    Workspaces::from_options(&options.s3)
}

/// A run of its own on a backend.
pub(crate) struct Case<'a> {
    pub backend: &'a Backend,
    pub files: RunWorkspace,
    user_id: UserId,
    run_id: RunId,
}

impl Backend {
    pub(crate) fn case(&self) -> Case<'_> {
        let (user_id, run_id) = (UserId::from("auth0|conformance"), RunId(SystemIds.uuid()));
        Case {
            backend: self,
            files: self.workspaces.of_run(&user_id, run_id),
            user_id,
            run_id,
        }
    }
}

impl Case<'_> {
    pub(crate) fn shell(&self, command: &str) -> SandboxRequest {
        let command = command.to_owned();
        self.request(Program::Shell { command })
    }

    pub(crate) fn code(&self, language: &str, code: &str) -> SandboxRequest {
        let (language, code) = (language.to_owned(), code.to_owned());
        self.request(Program::Code { language, code })
    }

    fn request(&self, program: Program) -> SandboxRequest {
        SandboxRequest {
            run_id: self.run_id,
            step_id: StepId(SystemIds.uuid()),
            user_id: self.user_id.clone(),
            program,
            working_dir: "/workspace".to_owned(),
            timeout: Duration::from_mins(1),
        }
    }

    pub(crate) async fn run(&self, request: &SandboxRequest) -> Result<SandboxOutput, SandboxError> {
        let cancel = CancellationToken::new();
        self.backend.sandbox.run(request, &Unheard, &cancel).await
    }

    /// Runs a shell command that exits.
    pub(crate) async fn sh(&self, command: &str) -> SandboxOutput {
        let ran = self.run(&self.shell(command)).await;
        ran.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a Python program that exits.
    pub(crate) async fn python(&self, source: &str) -> SandboxOutput {
        let ran = self.run(&self.code("python", source)).await;
        ran.unwrap_or_else(|error| panic!("{source}: {error}"))
    }

    /// Runs a command that fails in no way and says what it printed.
    pub(crate) async fn text(&self, command: &str) -> String {
        let output = self.sh(command).await;
        assert_eq!(output.exit_code, Some(0), "{command}: {output:?}");
        output.stdout
    }

    pub(crate) async fn write(&self, path: &str, text: &str) {
        let content = Bytes::copy_from_slice(text.as_bytes());
        self.files.write(path, content).await.unwrap();
    }

    /// Past the rules of file tools, as an upload does.
    pub(crate) async fn put(&self, path: &str, text: &str) {
        let key = format!("{}{path}", self.files.prefix());
        let store = self.files.store("test").unwrap();
        let content = Bytes::copy_from_slice(text.as_bytes());
        store.put(&key, content, "text/plain").await.unwrap();
    }

    pub(crate) async fn read(&self, path: &str) -> String {
        String::from_utf8(self.files.read(path).await.unwrap().to_vec()).unwrap()
    }

    pub(crate) async fn list(&self) -> Vec<FileInfo> {
        self.files.list("").await.unwrap()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.list().await.into_iter().map(|file| file.filepath).collect()
    }
}

/// Hears what a sandbox tells.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard(Arc<Mutex<Vec<OutputPiece>>>);

impl Heard {
    pub(crate) fn pieces(&self, stream: OutputStream) -> Vec<OutputPiece> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|piece| piece.stream == stream)
            .cloned()
            .collect()
    }

    pub(crate) fn text(&self, stream: OutputStream) -> String {
        self.pieces(stream).into_iter().map(|piece| piece.text).collect()
    }
}

impl SandboxEvents for Heard {
    async fn waiting(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn admitted(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    fn output(&self, piece: OutputPiece) {
        self.0.lock().unwrap().push(piece);
    }

    async fn has_ended(&self) -> bool {
        true
    }
}

/// Processes of this machine whose command line holds `marker`, those excepted that only carry it on.
pub(crate) fn processes_with(marker: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(marker))
        .collect()
}
