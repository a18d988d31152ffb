//! Child processes and signals: the few system calls that have no safe form.

#![expect(
    unsafe_code,
    reason = "kill, prctl, setrlimit, gethostname and pre_exec exist in no other form"
)]

use std::{io, process::Stdio};

use tokio::process::{Child, Command};

/// Starts `command` in a process group of its own, with nothing to read. It gets a SIGTERM when this process dies,
/// however it dies.
///
/// # Errors
/// The system could not start it.
pub fn start(mut command: Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).process_group(0);
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure calls prctl and getppid only, which are async-signal-safe, and it
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the call.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Asks a child to stop. One that has ended already, and was waited for, has no id any more.
pub fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // SAFETY: kill touches no memory; the child was not waited for yet, so the id is still its own.
        unsafe {
            libc::kill(pid, libc::SIGTERM);
        }
    }
}

/// How a child ended, in words.
pub fn ending(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Raises the limit of open files as far as it goes without rights, and returns it; `None` if the system does not say.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes to the struct that is lent to it, and to nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return None;
    }
    let wanted = libc::rlimit {
        rlim_cur: limit.rlim_max,
        ..limit
    };
    // SAFETY: setrlimit reads the struct that is lent to it, and touches no other memory.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0;
    Some(if raised {
        limit.rlim_max
    } else {
        limit.rlim_cur
    })
}

/// The name of this host, as it calls itself; `None` if it has none, or one that is no text.
pub fn host_name() -> Option<String> {
    /// Longer than any system allows.
    const BYTES_MAX: usize = 256;
    let mut name = [0_u8; BYTES_MAX];
    // SAFETY: gethostname writes at most so many bytes as are lent to it, and the last one stays 0.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), BYTES_MAX - 1) } != 0 {
        return None;
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    let name = name.to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_the_name_that_the_kernel_says() {
        let Ok(said) = std::fs::read_to_string("/proc/sys/kernel/hostname") else {
            return; // no Linux
        };
        assert_eq!(host_name().unwrap_or_default(), said.trim_end());
    }
}
