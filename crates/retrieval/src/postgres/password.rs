//! Passwords: of the environment, or of a password file as PostgreSQL's own clients read it
//! (<https://www.postgresql.org/docs/current/libpq-pgpass.html>). They are read anew for each connection, so that a password
//! that is changed needs no restart.

use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::error::Result;
use crate::secret;

/// The password of `PGPASSWORD`, or of the file that `named`, `PGPASSFILE` or the home directory tells; none where none is
/// needed or known.
pub(super) fn find(config: &Config, named: Option<&Path>) -> Result<Option<String>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if named.is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        return Ok(Some(password));
    }
    let named = named.map(Path::to_owned).or_else(|| variable("PGPASSFILE").map(PathBuf::from));
    let path = match (named, variable("HOME")) {
        (Some(path), _) => path,
        (None, Some(home)) => {
            let path = Path::new(&home).join(".pgpass");
            if !path.exists() {
                return Ok(None);
            }
            path
        }
        (None, None) => return Ok(None),
    };
    let text = secret::read(&path)?;
    Ok(wanted(config).iter().find_map(|wanted| of(&text, wanted)))
}

/// Host, port, database and user of each server.
fn wanted(config: &Config) -> Vec<[String; 4]> {
    let ports = config.get_ports();
    let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let of = |(at, host): (usize, &Host)| {
        let host = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(_) => "localhost".to_owned(),
        };
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        [host, port.to_string(), part(config.get_dbname()), part(config.get_user())]
    };
    config.get_hosts().iter().enumerate().map(of).collect()
}

/// The password of the first line that fits.
fn of(text: &str, wanted: &[String; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, fits) = (fields.get(4)?, fields.iter().zip(wanted));
        let mut fits = fits.map(|(field, wanted)| field == "*" || field == wanted);
        fits.all(|fits| fits).then(|| password.clone())
    })
}

/// Fields are separated by colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut characters) = (vec![String::new()], line.chars());
    while let Some(character) = characters.next() {
        match (character, fields.len()) {
            (':', 1..=4) => fields.push(String::new()),
            ('\\', _) => fields.last_mut().into_iter().for_each(|field| field.extend(characters.next())),
            _ => fields.last_mut().into_iter().for_each(|field| field.push(character)),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn in_file(text: &str, url: &str) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        find(&url.parse().unwrap(), Some(file.path())).unwrap()
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# h:5432:d:u:no\n\nother:5432:d:u:1\nh:5432:d:u:2\nh:*:*:u:3\n*:*:*:*:a\\:b\\\\c:d\n";
        assert_eq!(in_file(text, "postgres://u@h/d").as_deref(), Some("2"));
        assert_eq!(in_file(text, "postgres://u@h:6000/x").as_deref(), Some("3"));
        assert_eq!(in_file(text, "postgres://v@other/x").as_deref(), Some("a:b\\c:d"));
        assert_eq!(in_file("h:5432:d:u:1\n", "postgres://u@g/d"), None);
        assert_eq!(in_file("localhost:5432:d:u:1\n", "postgres://u@%2Frun/d").as_deref(), Some("1"));
        assert_eq!(in_file("b:5433:d:u:1\n", "postgres://u@a:5432,b:5433/d").as_deref(), Some("1"));
        assert_eq!(in_file("h:5432\n", "postgres://u@h/d"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:s3cret").unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).unwrap();
        let config: Config = "postgres://u@h/d".parse().unwrap();
        let error = find(&config, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("can be read by others") && error.contains("hint: `chmod 600"), "{error}");
        assert!(find(&config, Some(Path::new("/gone"))).unwrap_err().to_string().contains("`/gone`"));
    }
}
