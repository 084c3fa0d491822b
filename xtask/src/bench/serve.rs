//! Images a second from JPEG bytes to embeddings: the server under concurrent clients, against a Python loop
//! around ONNX Runtime with the same model and the same images.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::{Better, Figure, number, peer};
use crate::server::Server;
use crate::{paths, sh};

/// Clients that post at the same time.
const CLIENTS: usize = 8;
/// Requests that are measured.
const REQUESTS: usize = 192;

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let (checkpoint, model, images) =
        (folder.join("resnet50.safetensors"), folder.join("encoder.onnx"), folder.join("images"));
    peer(include_str!("serve_inputs.py"), &[&checkpoint, &images])?;
    sh::capture(sh::command(paths::tool("occlude-export")).arg("onnx").arg(&checkpoint).arg(&model))?;
    let answer = peer(include_str!("serve.py"), &[&model, &images])?;
    let ours = ours(&model, &images, &folder.join("serve.log"))?;
    let figure =
        |what: &str, peer| Figure { what: what.into(), unit: "images/s", ours, peer, better: Better::Higher };
    Ok(vec![
        figure("peer: Pillow + ONNX Runtime, batch 8", number(&answer, "batch8")?),
        figure("peer: Pillow + ONNX Runtime, one by one", number(&answer, "single")?),
        figure("peer: ONNX Runtime alone, ready tensors", number(&answer, "ready")?),
    ])
}

fn ours(model: &Path, images: &Path, log: &Path) -> Result<f64> {
    let mut files: Vec<PathBuf> = fs::read_dir(images)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let bodies: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<std::io::Result<_>>()?;
    let server = Server::start(model, None, &[], log)?;
    post_all(&server, &bodies, bodies.len())?;
    let start = Instant::now();
    post_all(&server, &bodies, REQUESTS)?;
    let rate = REQUESTS as f64 / start.elapsed().as_secs_f64();
    server.stop()?;
    Ok(rate)
}

/// Posts the bodies in turn from several clients until `count` requests are answered.
fn post_all(server: &Server, bodies: &[Vec<u8>], count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let client = server.client();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(());
            }
            let body = bodies.get(i % bodies.len().max(1)).context("no images")?;
            client.post("/v1/embed", body)?;
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        for client in clients {
            match client.join() {
                Ok(result) => result?,
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(())
    })
}
