//! Work for days beside other work: the lowest priority, programs that end with this one, and a folder that one call has at
//! a time.

use anyhow::{Context, Result, bail};
use occlude_output::FileLock;
use rustix::process::{
    Pid, Signal, getpid, getppid, getsid, kill_process, set_parent_process_death_signal, setpriority_process,
};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::sh;

/// The lowest priority.
const NICE: i32 = 19;
/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Time for a program that was told to stop; a run that is killed goes on from its last checkpoint all the same.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes the lowest priority, for this process and all that it starts; says what came of it.
///
/// Where the kernel groups processes by session (autogroup), it shares the processor out between sessions first, and the
/// priority of a process counts within its own only. The session's is lowered where this process leads one: another's may
/// be somebody's terminal.
pub(super) fn step_aside() -> String {
    if let Err(error) = setpriority_process(None, NICE) {
        return format!("warning: the priority could not be lowered ({error})");
    }
    let grouped =
        fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").is_ok_and(|on| on.trim() == "1");
    let leads = getsid(None).is_ok_and(|session| session == getpid());
    match (grouped, leads) {
        (false, _) => format!("running at the lowest priority (nice {NICE})"),
        (true, true) if fs::write("/proc/self/autogroup", NICE.to_string()).is_ok() => {
            format!("running at the lowest priority (nice {NICE}, and that of its session)")
        }
        (true, _) => format!(
            "running at the lowest priority of its session (nice {NICE})\nhint: this kernel shares processors between sessions; `setsid` before the command gives it one of its own, whose priority is lowered too"
        ),
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, and well.
    Done,
    /// Because the time was up; what it saves for going on is saved.
    Stopped,
}

/// Runs a program to its end, or until `deadline`. What it says goes to the end of `log`, what it prints to `stdout`, if
/// that is given. It is told to stop when this process dies, however that happens.
pub(super) fn work(
    command: &mut Command,
    log: &Path,
    stdout: Option<&Path>,
    deadline: Option<Instant>,
) -> Result<End> {
    let mut file = sh::open_log(log)?;
    writeln!(file, "$ {}", sh::line(command))?;
    let out = match stdout {
        Some(path) => File::create(path).with_context(|| format!("could not write `{}`", path.display()))?,
        None => file.try_clone()?,
    };
    let mut child = start(command.stdin(Stdio::null()).stdout(out).stderr(file))?;
    let (status, stopped) = wait(&mut child, deadline)?;
    match end(status, stopped) {
        Some(end) => Ok(end),
        None => bail!("{}", sh::failure(&sh::line(command), &describe(status), log)),
    }
}

/// How a program ended that was told to stop, or was not; none where it failed.
fn end(status: ExitStatus, stopped: bool) -> Option<End> {
    match (status.success(), stopped) {
        (true, _) => Some(End::Done),
        (false, true) => Some(End::Stopped),
        (false, false) => None,
    }
}

/// Starts a program that is told to stop when the thread that starts it ends, as it does with the process.
fn start(command: &mut Command) -> Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec only two system calls are made, both of which are safe there.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            // the parent may have died before that
            if getppid() == Some(parent) { Ok(()) } else { Err(ErrorKind::Interrupted.into()) }
        });
    }
    command.spawn().with_context(|| format!("could not start `{}`", sh::line(command)))
}

/// The child's status, and whether it was told to stop.
fn wait(child: &mut Child, deadline: Option<Instant>) -> Result<(ExitStatus, bool)> {
    let mut told: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, told.is_some()));
        }
        match told {
            None if deadline.is_some_and(|at| Instant::now() >= at) => {
                let _ = kill_process(Pid::from_child(child), Signal::TERM);
                told = Some(Instant::now());
            }
            Some(since) if since.elapsed() > PATIENCE => {
                // it may end at this very moment
                let _ = child.kill();
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
}

fn describe(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"))
}

/// Keeps other calls from `folder`, which exists, as long as it lives; the system takes the lock back however this process ends.
///
/// # Errors
/// Where another call has it.
pub(super) fn lock(folder: &Path) -> Result<FileLock> {
    let path = folder.join(".accuracy.lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.with_context(|| format!("could not write `{}`", path.display()))?;
    let mut lock = match FileLock::try_take(file) {
        Ok(lock) => lock,
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "`{}` belongs to another `cargo xtask accuracy` that is running (process {})\nhint: wait until it has ended or stop it, or use another `--out`",
                folder.display(),
                owner.trim()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("could not lock `{}`", path.display()));
        }
    };
    lock.sign(&std::process::id().to_string())?;
    Ok(lock)
}

/// Waits until the program that an earlier call left behind in `folder` has ended: it was told to stop, and saves.
pub(super) fn wait_until_left(folder: &Path) -> Result<()> {
    let Ok(file) = File::open(folder.join(".lock")) else { return Ok(()) };
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => bail!(
                "`{}` is being written by another process\nhint: wait until it has ended or stop it",
                folder.display()
            ),
            // what cannot be locked is the trainer's to report
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_ends_by_itself_or_fails_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let (log, out) = (dir.path().join("log.txt"), dir.path().join("out"));
        assert_eq!(
            work(&mut shell("echo data; echo words >&2"), &log, Some(&out), None).expect("ended"),
            End::Done
        );
        assert_eq!(fs::read_to_string(&out).expect("written"), "data\n");
        let error = work(&mut shell("echo no such thing >&2; exit 3"), &log, None, None).expect_err("failed");
        let message = format!("{error:#}");
        assert!(message.contains("exit status: 3") && message.contains("no such thing"), "{message}");
        assert!(fs::read_to_string(&log).expect("written").contains("words"));
    }

    /// A shell that notes in `saved` that it was told to stop; it is in its loop.
    fn patient(dir: &Path, code: i32) -> Child {
        let (ready, saved) = (dir.join("ready"), dir.join("saved"));
        let _ = fs::remove_file(&ready);
        let script = format!(
            "trap 'echo saved > {}; exit {code}' TERM; echo > {}; while :; do sleep 0.05; done",
            saved.display(),
            ready.display()
        );
        let child = start(&mut shell(&script)).expect("started");
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    #[test]
    fn time_that_is_up_stops_a_program_which_saves_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = patient(dir.path(), 143);
        let (status, stopped) = wait(&mut child, Some(Instant::now())).expect("ended");
        assert_eq!((status.code(), stopped, dir.path().join("saved").exists()), (Some(143), true, true));
        assert!(end(status, stopped).is_some_and(|end| end == End::Stopped));
        // what ends well although it was told to stop has done its work
        let (status, stopped) = wait(&mut patient(dir.path(), 0), Some(Instant::now())).expect("ended");
        assert!(stopped && end(status, stopped) == Some(End::Done));
        assert_eq!(end(ExitStatus::from_raw(143 << 8), false), None, "nobody here told it to");
    }

    #[test]
    fn programs_are_told_to_stop_when_their_parent_dies() {
        let dir = tempfile::tempdir().expect("a folder");
        let (place, saved) = (dir.path().to_owned(), dir.path().join("saved"));
        // a thread stands for the process: the signal is sent when the thread that started the program ends
        let parent = std::thread::spawn(move || patient(&place, 143));
        let mut child = parent.join().expect("a child");
        assert_eq!((child.wait().expect("ended").code(), saved.exists()), (Some(143), true));
    }

    #[test]
    fn a_folder_has_one_call_at_a_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = lock(dir.path()).expect("free");
        let message = lock(dir.path()).expect_err("taken").to_string();
        assert!(
            message.contains(&format!("process {}", std::process::id())) && message.contains("--out"),
            "{message}"
        );
        drop(first);
        lock(dir.path()).expect("free again");
        wait_until_left(dir.path()).expect("nobody was there");
    }
}
