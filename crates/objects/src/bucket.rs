//! Buckets: S3 and what speaks like it, Google's and Azure's.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, S3CopyIfNotExists};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig, WriteMultipart,
};
use occlude_preprocess::files::is_shard;
use tokio::runtime::Handle;

use crate::{Draft, Error, Listed, Object, Stat, Store, is_listed_picture, sort};

/// Largest result that is put in one request, from memory. Larger ones are uploaded in parts under another name and copied:
/// no store takes parts on the condition that a name is free.
const ONE_REQUEST: u64 = 32 << 20;
/// Bytes of a part.
const PART: usize = 8 << 20;
/// Where larger results lie until they are whole.
const UNFINISHED: &str = "unfinished";

/// Says for how many seconds a request is tried again once work has begun.
const PATIENCE: &str = "OCCLUDE_BUCKET_PATIENCE";
const DEFAULT_PATIENCE: Duration = Duration::from_secs(180);

/// A prefix of a bucket.
struct Bucket {
    /// As the user wrote it, without a slash at its end.
    address: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    runtime: Handle,
    one_request: u64,
}

/// Opens `s3://BUCKET/..`, `gs://BUCKET/..` or `az://CONTAINER/..`, with credentials and endpoint of the environment, and
/// makes sure that it can be listed.
pub(crate) fn open(address: &str, runtime: &Handle) -> Result<Arc<dyn Store>, Error> {
    // ring serves everything else here already
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let address = address.trim_end_matches('/').to_owned();
    let wrong = |reason: &str| Error::Address { address: address.clone(), reason: reason.to_owned() };
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(wrong("it names no bucket"));
    }
    let prefix = Key::parse(path).map_err(|e| wrong(&e.to_string()))?;
    let unusable = |e: StoreError| wrong(&told(&e, scheme));
    let bucket_of = |retry: RetryConfig| -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(match scheme {
            "s3" => Arc::new(s3(bucket).with_retry(retry).build().map_err(unusable)?),
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                Arc::new(builder.with_retry(retry).build().map_err(unusable)?)
            }
            "az" => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
                Arc::new(builder.with_retry(retry).build().map_err(unusable)?)
            }
            _ => return Err(wrong("expected `s3://`, `gs://` or `az://`, or the path of a folder")),
        })
    };
    // A wrong address or missing credentials are told soon; later a store may be busy for minutes.
    let brief =
        RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(15), ..RetryConfig::default() };
    let first = bucket_of(brief)?;
    let looked = runtime.block_on(async { first.list(Some(&prefix)).try_next().await });
    looked.map_err(|e| wrong(&told(&e, scheme)))?;
    let patient = RetryConfig {
        max_retries: usize::MAX,
        retry_timeout: patience().map_err(|reason| wrong(&reason))?,
        ..RetryConfig::default()
    };
    let store = bucket_of(patient)?;
    Ok(Arc::new(Bucket { address, store, prefix, runtime: runtime.clone(), one_request: ONE_REQUEST }))
}

/// As headers have it: listings of Azure leave the quotes out.
fn quoted(tag: String) -> String {
    if tag.ends_with('"') { tag } else { format!("\"{tag}\"") }
}

/// How long a request is tried again.
///
/// # Errors
/// In words, where the variable is no number.
fn patience() -> Result<Duration, String> {
    let Some(text) = std::env::var_os(PATIENCE).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_PATIENCE);
    };
    let seconds = text.to_str().and_then(|text| text.parse::<u32>().ok());
    let wrong = || format!("{PATIENCE} is `{}`; hint: set it to whole seconds, like 180", text.display());
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or_else(wrong)
}

fn s3(bucket: &str) -> AmazonS3Builder {
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    match std::env::var_os("AWS_COPY_IF_NOT_EXISTS") {
        Some(_) => builder,
        None => builder.with_copy_if_not_exists(S3CopyIfNotExists::Multipart),
    }
}

/// What credentials are called in the environment, by the scheme: how the names of variables begin, and what to set.
const CREDENTIALS: [(&str, &[&str], &str); 3] = [
    (
        "s3",
        &["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_", "AWS_SKIP_SIGNATURE"],
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        "gs",
        &["GOOGLE_SERVICE_", "GOOGLE_APPLICATION_", "GOOGLE_SKIP_SIGNATURE"],
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (
        "az",
        &["AZURE_STORAGE_", "AZURE_CLIENT_", "AZURE_FEDERATED_", "AZURE_SKIP_SIGNATURE"],
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
];

/// What a store says, and what to do about it.
fn told(error: &StoreError, scheme: &str) -> String {
    let given =
        |begin: &&str| std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with(*begin));
    let lacking = CREDENTIALS.iter().find(|(known, begins, _)| *known == scheme && !begins.iter().any(given));
    // answers to listings come as errors without a kind
    let text = error.to_string().replace('\n', " ");
    let status = |codes: &[&str]| codes.iter().any(|code| text.contains(&format!("status code: {code}")));
    let hint = match lacking {
        _ if matches!(error, StoreError::NotFound { .. }) || status(&["404"]) => {
            "create the bucket, or correct the address".to_owned()
        }
        Some((.., set)) => format!("no credentials in the environment: set {set}"),
        None if status(&["401", "403"]) => "the credentials in the environment do not suffice".to_owned(),
        None => {
            "see the endpoint, the region and the credentials in the environment (AWS_.., GOOGLE_.., AZURE_..)".to_owned()
        }
    };
    format!("{text}; hint: {hint}")
}

fn failed(error: StoreError) -> io::Error {
    let kind = match &error {
        StoreError::NotFound { .. } => io::ErrorKind::NotFound,
        // also what is refused: credentials run out, which says nothing about a picture
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// A name that no other process takes.
fn random() -> String {
    let number = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    format!("{number:016x}")
}

fn other(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Bucket {
    fn key(&self, path: &Path) -> io::Result<Key> {
        let below = path.to_str().ok_or_else(|| other("the name is not UTF-8"))?;
        let whole = if self.prefix.is_root() { below.to_owned() } else { format!("{}/{below}", self.prefix) };
        Key::parse(whole).map_err(other)
    }

    fn below(&self, key: &Key) -> PathBuf {
        let whole = key.as_ref();
        let below = whole.strip_prefix(self.prefix.as_ref()).unwrap_or(whole);
        below.trim_start_matches('/').into()
    }

    fn objects(&self, found: Vec<object_store::ObjectMeta>, wanted: impl Fn(&Path) -> bool) -> Vec<Object> {
        let object = |meta: object_store::ObjectMeta| {
            let path = self.below(&meta.location);
            let stat = Some(Stat { bytes: meta.size, tag: meta.e_tag.map(quoted) });
            wanted(&path).then_some(Object { path, stat })
        };
        let mut objects: Vec<Object> = found.into_iter().filter_map(object).collect();
        sort(&mut objects);
        objects
    }

    async fn listed(&self) -> Result<Listed, StoreError> {
        let top = self.store.list_with_delimiter(Some(&self.prefix)).await?;
        let (files, folders) = (top.objects.len(), top.common_prefixes.len());
        let pictures = top.objects.iter().any(|o| is_listed_picture(&self.below(&o.location)));
        let shards = self.objects(top.objects, |path| path.file_name().is_some_and(is_shard));
        if !pictures && !shards.is_empty() {
            let others = files - shards.len() + folders;
            let left_out = match others {
                0 => String::new(),
                n => format!("left out: {n} files and folders beside shards"),
            };
            return Ok(Listed { shards, left_out, ..Listed::default() });
        }
        let mut found = Vec::new();
        let mut others = 0usize;
        let mut all = self.store.list(Some(&self.prefix));
        while let Some(meta) = all.try_next().await? {
            if is_listed_picture(&self.below(&meta.location)) {
                found.push(meta);
            } else {
                others += 1;
            }
        }
        let left_out = if others > 0 { format!("left out: {others} files") } else { String::new() };
        Ok(Listed { pictures: self.objects(found, |_| true), left_out, ..Listed::default() })
    }

    /// In parts, under a name of its own; then copied to where nothing may be.
    async fn put_large(&self, mut file: File, key: &Key) -> Result<(), StoreError> {
        let unfinished = self.prefix.clone().join(UNFINISHED);
        let name = format!("{}-{}", key.filename().unwrap_or_default(), random());
        let unfinished = Key::parse(format!("{unfinished}/{name}"))?;
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.store.put_multipart(&unfinished).await?, PART);
        let mut part = vec![0; PART];
        let generic =
            |source: io::Error| StoreError::Generic { store: "temporary file", source: source.into() };
        loop {
            let read = file.read(&mut part).map_err(generic)?;
            if read == 0 {
                break;
            }
            upload.wait_for_capacity(2).await?;
            upload.write(part.get(..read).unwrap_or_default());
        }
        upload.finish().await?;
        let copied = self.store.copy_if_not_exists(&unfinished, key).await;
        // what is left behind here lies beside the results, where nobody reads it
        let _ = self.store.delete(&unfinished).await;
        copied
    }
}

impl Store for Bucket {
    fn name(&self, path: &Path) -> String {
        if path.as_os_str().is_empty() {
            return self.address.clone();
        }
        format!("{}/{}", self.address, path.display())
    }

    fn list(&self) -> Result<Listed, Error> {
        let listed = self.runtime.block_on(self.listed()).map_err(failed);
        let listed = listed.map_err(|reason| Error::Read { place: self.address.clone(), reason })?;
        if listed.shards.is_empty() && listed.pictures.is_empty() {
            return Err(Error::Nothing { place: self.address.clone() });
        }
        Ok(listed)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let found =
            self.runtime.block_on(self.store.list_with_delimiter(Some(&self.prefix))).map_err(failed)?;
        Ok(found.objects.iter().filter_map(|o| o.location.filename()).map(str::to_owned).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match self.runtime.block_on(self.store.head(&self.key(path)?)) {
            Ok(meta) => Ok(Some(Stat { bytes: meta.size, tag: meta.e_tag })),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    fn read(&self, path: &Path, stat: &Stat, range: Range<u64>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let key = self.key(path)?;
        // the parts of a file are those of one version
        let options = GetOptions::new().with_range(Some(range)).with_if_match(stat.tag.clone());
        self.runtime.block_on(async { self.store.get_opts(&key, options).await?.bytes().await }).map_err(
            |e| match e {
                StoreError::Precondition { .. } => other("it was replaced while it was read"),
                e => failed(e),
            },
        )
    }

    fn draft(&self) -> io::Result<Draft> {
        tempfile::tempfile().map(Draft::Nameless)
    }

    fn put(&self, draft: Draft, name: &str) -> io::Result<bool> {
        let Draft::Nameless(mut file) = draft else { return Err(io::ErrorKind::InvalidInput.into()) };
        let key = self.key(Path::new(name))?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let done = if length <= self.one_request {
            let mut bytes = Vec::with_capacity(length as usize);
            file.read_to_end(&mut bytes)?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.store.put_opts(&key, PutPayload::from(bytes), options);
            self.runtime.block_on(put).map(drop)
        } else {
            self.runtime.block_on(self.put_large(file, &key))
        };
        match done {
            Ok(()) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::io::Write;

    fn bucket(runtime: &Handle, one_request: u64) -> Bucket {
        let (address, prefix) = ("s3://b/out".to_owned(), Key::from("out"));
        Bucket { address, store: Arc::new(InMemory::new()), prefix, runtime: runtime.clone(), one_request }
    }

    fn draft(bucket: &Bucket, bytes: &[u8]) -> Draft {
        let draft = bucket.draft().unwrap();
        let Draft::Nameless(mut file) = draft else { panic!("it has a name") };
        file.write_all(bytes).unwrap();
        Draft::Nameless(file)
    }

    #[test]
    fn a_name_is_given_once_however_large_the_file_is() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let large = vec![7; 2 * PART + 5];
        for (one_request, first) in [(1 << 30, &b"small"[..]), (10, &large)] {
            let bucket = bucket(runtime.handle(), one_request);
            assert!(bucket.put(draft(&bucket, first), "a%2Fb.parquet").unwrap());
            assert!(!bucket.put(draft(&bucket, &[8; 30]), "a%2Fb.parquet").unwrap());
            assert_eq!(bucket.names().unwrap(), ["a%2Fb.parquet"]);
            let path = Path::new("a%2Fb.parquet");
            let stat = bucket.stat(path).unwrap().unwrap();
            assert_eq!(stat.bytes, first.len() as u64);
            assert_eq!(bucket.read(path, &stat, 1..4).unwrap(), first[1..4]);
            let replaced = Stat { tag: Some("\"other\"".to_owned()), ..stat };
            assert!(bucket.read(path, &replaced, 1..4).unwrap_err().to_string().contains("replaced"));
            assert_eq!(bucket.stat(Path::new("gone")).unwrap(), None);
            let left: Vec<_> = runtime.block_on(bucket.store.list(None).try_collect::<Vec<_>>()).unwrap();
            assert_eq!(left.len(), 1, "nothing unfinished is left: {left:?}");
        }
    }

    #[test]
    fn what_is_listed_is_what_a_folder_would_have() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listed = |names: &[&str]| {
            let bucket = bucket(runtime.handle(), 10);
            for name in names {
                runtime.block_on(bucket.store.put(&Key::from(*name), "x".into())).unwrap();
            }
            bucket.list()
        };
        let paths = |objects: &[Object]| -> Vec<String> {
            objects.iter().map(|object| object.path.display().to_string()).collect()
        };
        let shards =
            listed(&["out/b.tar", "out/a.TAR", "out/classes.txt", "out/c/d.jpg", "other/e.tar"]).unwrap();
        assert_eq!((paths(&shards.shards), shards.pictures.len()), (vec!["a.TAR".into(), "b.tar".into()], 0));
        assert_eq!(shards.left_out, "left out: 2 files and folders beside shards");
        let pictures = listed(&["out/b/c.jpg", "out/b-a.png", "out/b.tar", "out/.x/d.jpg"]).unwrap();
        assert_eq!(
            (paths(&pictures.pictures), pictures.shards.len()),
            (vec!["b-a.png".into(), "b/c.jpg".into()], 0)
        );
        assert!(listed(&["other/e.tar"]).unwrap_err().to_string().contains("no tar shards and no pictures"));
    }
}
