//! `occlude-serve` as a child process: started on a free port, waited for, drained.

use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::{paths, sh};

/// Longest wait for a server that loads its model and indexes a gallery.
const START: Duration = Duration::from_secs(300);
/// Longest wait for a server that drains.
const DRAIN: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// `http://127.0.0.1:port`.
    pub url: String,
}

impl Server {
    /// Starts it with a model, a gallery where there is one, and further arguments; returns once it is ready.
    pub fn start(model: &Path, gallery: Option<&Path>, more: &[&str], log: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = sh::command(paths::tool("occlude-serve"));
        command.arg("--model").arg(model).args(["--port", &port.to_string()]).args(more);
        if let Some(gallery) = gallery {
            command.arg("--gallery").arg(gallery);
        }
        Self::launch(command, port, log)
    }

    /// Starts any server that answers `/readyz` on `port` of this machine; returns once it does.
    pub fn launch(mut command: Command, port: u16, log: &Path) -> Result<Self> {
        let file = sh::open_log(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("could not start `{}`", sh::line(&command)))?;
        let mut server = Self { child, log: log.to_owned(), url: format!("http://127.0.0.1:{port}") };
        server.wait_ready(&sh::line(&command))?;
        Ok(server)
    }

    fn wait_ready(&mut self, line: &str) -> Result<()> {
        let start = Instant::now();
        while Client::new(&self.url).get("/readyz").is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{}", sh::failure(line, &status.to_string(), &self.log));
            }
            if start.elapsed() > START {
                bail!("{}", sh::failure(line, "not ready in time", &self.log));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is there; how it ended, if not.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{}", sh::failure("the server", &status.to_string(), &self.log)),
        }
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// Asks it to stop and waits until it has drained.
    pub fn stop(mut self) -> Result<()> {
        sh::capture(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let start = Instant::now();
        while start.elapsed() < DRAIN {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("{}", sh::failure("occlude-serve", &format!("on SIGTERM: {status}"), &self.log));
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("`occlude-serve` did not stop within {} of SIGTERM", sh::seconds(DRAIN))
    }

    /// Waits until the user stops it.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        bail!("{}", sh::failure("occlude-serve", &status.to_string(), &self.log))
    }
}

/// A port that nobody listens on.
pub fn free_port() -> Result<u16> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    Ok(free.context("no free port")?.port())
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
