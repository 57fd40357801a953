//! The filter of system calls: a list of what no tool needs, answered with `EPERM`; everything else is allowed.
//!
//! A list of what is allowed would be shorter to prove and would break interpreters with every release of theirs. What this
//! list must hold back are ways around the other walls (tracing, namespaces, mounts, handles) and large parts of the
//! kernel that are open to everybody (bpf, io_uring, performance events, keys, rare socket families).

use super::ConfineError;
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};
use std::collections::BTreeMap;

/// Refused whatever the arguments are.
const NEVER: &[i64] = &[
    // Other processes: their memory, files and time.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Namespaces, roots and mounts.
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Files by handle, past all paths.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Parts of it that are open to everybody and have a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
];
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];
/// Newer than the library's list; the same on all machines.
const SYS_OPEN_TREE_ATTR: i64 = 467;

/// Flags of `clone` and `unshare` that make namespaces: mount, cgroup, uts, ipc, user, pid, net, and for `unshare` alone time.
const NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
];
const NEW_TIME: u64 = 0x80;
/// Asks `personality` for the present one.
const ASK: u64 = 0xffff_ffff;
/// The process that holds a sandbox together: init of its namespace, in a pod the supervisor.
const FIRST: u64 = 1;
/// Calls whose first argument is a process or thread. Where Landlock knows signals it holds back more than this.
const NOT_ON_THE_FIRST: [i64; 10] = [
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Built<T> = Result<T, BackendError>;

pub(super) fn restrict(network: bool) -> Result<(), ConfineError> {
    apply_filter(&unknown_calls())?;
    Ok(apply_filter(&refused(network)?)?)
}

fn refused(network: bool) -> Built<BpfProgram> {
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    // A program for another kind of machine (32 bits) is killed: its calls have other numbers.
    SeccompFilter::new(rules(network)?, SeccompAction::Allow, refuse, target)?.try_into()
}

fn rules(network: bool) -> Built<Rules> {
    let mut rules: Rules = NEVER
        .iter()
        .chain(NEVER_HERE)
        .map(|call| (*call, vec![]))
        .collect();
    rules.insert(libc::SYS_clone, flags(&NAMESPACES)?);
    rules.insert(
        libc::SYS_unshare,
        flags(&[&NAMESPACES[..], &[NEW_TIME]].concat())?,
    );
    rules.insert(
        libc::SYS_personality,
        vec![all(&[(0, Word, Ne, 0), (0, Word, Ne, ASK)])?],
    );
    for (call, mode) in devices() {
        let kind = Masked(u64::from(libc::S_IFMT));
        let is = |device: u32| all(&[(mode, Word, kind.clone(), u64::from(device))]);
        rules.insert(call, vec![is(libc::S_IFCHR)?, is(libc::S_IFBLK)?]);
    }
    rules.insert(libc::SYS_socket, vec![no_family_but(families(network))?]);
    rules.insert(libc::SYS_socketpair, vec![no_family_but(families(false))?]);
    // Typing into a terminal in somebody else's name.
    let typing = |request: u64| all(&[(1, Word, Eq, request)]);
    rules.insert(libc::SYS_ioctl, vec![typing(TIOCSTI)?, typing(TIOCLINUX)?]);
    for call in NOT_ON_THE_FIRST {
        rules.insert(call, vec![all(&[(0, Word, Eq, FIRST)])?]);
    }
    // Limits of other processes of the same user: only one's own (0).
    rules.insert(
        libc::SYS_prlimit64,
        vec![all(&[(0, Word, Ne, 0), (2, Long, Ne, 0)])?],
    );
    Ok(rules)
}

/// The calls that make device files, and which argument says so.
fn devices() -> Vec<(i64, u8)> {
    vec![
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, 1),
        (libc::SYS_mknodat, 2),
    ]
}

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

const fn families(network: bool) -> &'static [i32] {
    if network {
        &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]
    } else {
        &[libc::AF_UNIX]
    }
}

use SeccompCmpArgLen::{Dword as Word, Qword as Long};
use SeccompCmpOp::{Eq, MaskedEq as Masked, Ne};

/// All of these: number of the argument, its width, the comparison and what with.
fn all(conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)]) -> Built<SeccompRule> {
    let made = conditions
        .iter()
        .map(|(index, width, op, value)| SeccompCondition::new(*index, width.clone(), op.clone(), *value));
    SeccompRule::new(made.collect::<Built<_>>()?)
}

/// Any of these flags in the first argument.
fn flags(flags: &[u64]) -> Built<Vec<SeccompRule>> {
    flags
        .iter()
        .map(|flag| all(&[(0, Long, Masked(*flag), *flag)]))
        .collect()
}

fn no_family_but(families: &[i32]) -> Built<SeccompRule> {
    let others: Vec<_> = families
        .iter()
        .map(|family| (0, Word, Ne, *family as u64))
        .collect();
    all(&others)
}

/// `ENOSYS` to `clone3`, whose flags lie in memory where no filter can look (libraries then use `clone`), and to the second
/// set of numbers that x86 kernels may have (x32), which would be a way around all other rules.
fn unknown_calls() -> BpfProgram {
    const SECOND_SET: u32 = 0x4000_0000;
    let code = |code: u32| code as u16;
    let (load, equal) = (
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
    );
    let (at_least, give) = (
        code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K),
        code(libc::BPF_RET | libc::BPF_K),
    );
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // The number is the first word of what a filter sees.
        step(load, 0, 0, 0),
        step(equal, 2, 0, libc::SYS_clone3 as u32),
        step(at_least, 1, 0, SECOND_SET),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(give, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_compile_with_and_without_a_network() {
        assert!(refused(true).unwrap().len() < 4096);
        assert!(refused(false).unwrap().len() < refused(true).unwrap().len());
        assert_eq!(unknown_calls().len(), 5);
    }

    #[test]
    fn no_call_is_in_two_lists_where_the_second_would_weaken_the_first() {
        let rules = rules(true).unwrap();
        for call in NEVER.iter().chain(NEVER_HERE) {
            assert!(rules[call].is_empty(), "{call}");
        }
    }
}
