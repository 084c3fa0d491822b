//! Settings in environment variables.
//!
//! Kubernetes adds variables of its own for every Service of a pod's namespace, named after the Service: one called
//! `occlude-serve` makes `OCCLUDE_SERVE_PORT=tcp://10.0.0.7:8080` and a dozen more
//! (<https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>). They are
//! known by their forms, and are no settings.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::source::{Origin, Setting, SettingValue, is_list, is_switch, nearest, settable};
use super::{ConfigError, ModelFile};

/// What environment variables begin with.
pub const ENVIRONMENT: &str = "OCCLUDE_SERVE_";

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) settings: Vec<Setting>,
    /// What the operator should know.
    pub(super) notes: Vec<String>,
}

/// Reads the variables that begin with [`ENVIRONMENT`] and set what `wanted` says; an empty one is as if it were not
/// there.
pub(super) fn read(
    command: &Command,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Environment, ConfigError> {
    let (mut found, mut links) = (Environment::default(), Vec::new());
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) =
            name.strip_prefix(ENVIRONMENT).filter(|_| !value.to_string_lossy().trim().is_empty())
        else {
            continue;
        };
        if is_link(rest, &value) {
            links.push(format!("`{name}`"));
        } else if let Some(flag) = settable(command).find(|a| variable(a) == name) {
            if wanted(flag.get_id().as_str()) {
                let origin = Origin::Variable(name.to_owned());
                found.settings.push(Setting::new(flag, origin, parse(name, flag, &value)?));
            }
        } else {
            let known: Vec<String> = settable(command).map(variable).collect();
            let near = nearest(name, known.iter().map(String::as_str));
            found
                .notes
                .push(format!("`{name}` is not a setting and is ignored; hint: did you mean `{near}`?"));
        }
    }
    if !links.is_empty() {
        links.sort();
        let names = links.join(", ");
        found.notes.push(format!(
            "ignored {names}: Kubernetes service links, not settings; hint: `enableServiceLinks: false` in the pod's \
             spec omits them"
        ));
    }
    Ok(found)
}

/// The variable of a flag.
pub(super) fn variable(flag: &Arg) -> String {
    format!("{ENVIRONMENT}{}", flag.get_id().as_str().to_uppercase())
}

/// Whether Kubernetes made it, by what follows the prefix; other Services' names may come first.
fn is_link(rest: &str, value: &OsStr) -> bool {
    let ends = |end: &str| rest == end || rest.ends_with(&format!("_{end}"));
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|s| value.to_string_lossy().starts_with(s));
    let named_port = |r: &str| r == "SERVICE_PORT" || r.starts_with("SERVICE_PORT_");
    let within = |form: &dyn Fn(&str) -> bool| {
        form(rest) || rest.match_indices('_').any(|(at, _)| rest.get(at + 1..).is_some_and(form))
    };
    ends("PORT") && address || ends("SERVICE_HOST") || within(&named_port) || within(&is_port_link)
}

/// `PORT_8080_TCP`, alone or followed by what it tells.
fn is_port_link(rest: &str) -> bool {
    let mut words = rest.split('_');
    let port = words.next() == Some("PORT");
    let number = words.next().is_some_and(|n| n.parse::<u16>().is_ok());
    let protocol = matches!(words.next(), Some("TCP" | "UDP" | "SCTP"));
    let fact = matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"));
    port && number && protocol && fact && words.next().is_none()
}

fn parse(name: &str, flag: &Arg, value: &OsStr) -> Result<SettingValue, ConfigError> {
    if is_switch(flag) {
        return switch(name, &value.to_string_lossy()).map(SettingValue::Switch);
    }
    let text = value.to_str();
    Ok(SettingValue::Values(match text {
        Some(text) if is_list(flag) => list(flag, text).into_iter().map(Into::into).collect(),
        Some(text) => vec![text.trim().into()],
        None => vec![value.to_owned()],
    }))
}

fn switch(name: &str, text: &str) -> Result<bool, ConfigError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ConfigError::Setting {
            setting: format!("`{name}`"),
            value: text.to_owned(),
            reason: "expected `true` or `false`".to_owned(),
            flag: name.strip_prefix(ENVIRONMENT).unwrap_or(name).to_lowercase().replace('_', "-"),
        }),
    }
}

/// One value a line where there are several lines, else the values between commas; a model's file that is there keeps
/// the commas of its name.
fn list(flag: &Arg, text: &str) -> Vec<String> {
    let comma = !text.contains('\n');
    let pieces: Vec<&str> = text.split(if comma { ',' } else { '\n' }).collect();
    let files = comma && flag.get_id() == "model";
    let (mut found, mut at) = (Vec::new(), 0);
    while at < pieces.len() {
        let joined = |end: usize| pieces.get(at..end).unwrap_or_default().join(",").trim().to_owned();
        let longest = (at + 2..=pieces.len()).rev().find(|end| files && ModelFile::is_there(&joined(*end)));
        let end = longest.unwrap_or(at + 1);
        found.push(joined(end));
        at = end;
    }
    found.retain(|v| !v.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, ConfigError> {
        let pairs =
            variables.iter().map(|(n, v)| (OsString::from(format!("{ENVIRONMENT}{n}")), OsString::from(v)));
        super::read(&crate::Args::command(), pairs, |_| true)
    }

    fn words(variables: &[(&str, &str)]) -> Vec<String> {
        let settings = read(variables).unwrap().settings;
        settings.iter().flat_map(Setting::words).map(|w| w.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_flag_is_a_variable() {
        let command = crate::Args::command();
        for flag in settable(&command) {
            let name = variable(flag);
            let value = if is_switch(flag) { "true" } else { "1" };
            let found = super::read(&command, [(name.clone().into(), value.into())], |_| true).unwrap();
            assert_eq!(found.settings.len(), 1, "{name}");
            assert!(found.notes.is_empty() && found.settings[0].id == flag.get_id().as_str(), "{name}");
        }
    }

    #[test]
    fn links_to_services_are_no_settings() {
        let links = [
            ("PORT", "tcp://10.0.0.7:8080"),
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_HTTP", "8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.7"),
            ("PORT_53_UDP", "udp://10.0.0.7:53"),
            ("METRICS_SERVICE_HOST", "10.0.0.8"),
            ("METRICS_SERVICE_PORT_HTTP_METRICS", "9090"),
            ("METRICS_PORT", "tcp://10.0.0.8:9090"),
            ("METRICS_PORT_9090_TCP_ADDR", "10.0.0.8"),
            ("DATA_PORT", "sctp://10.0.0.8:9090"),
        ];
        let found = read(&links).unwrap();
        assert!(found.settings.is_empty(), "{:?}", found.settings);
        assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
        for (name, _) in links {
            assert!(found.notes[0].contains(&format!("`{ENVIRONMENT}{name}`")), "{name}: {}", found.notes[0]);
        }
        assert_eq!(words(&[("PORT", "9000")]), ["--port=9000"]);
    }

    #[test]
    fn unknown_variables_are_told_with_the_nearest_and_empty_ones_are_unset() {
        let found = read(&[("MAX_BATSCH", "3"), ("MAXIMAGES", "3")]).unwrap();
        assert!(
            found.notes[0].contains("`OCCLUDE_SERVE_MAX_BATSCH`")
                && found.notes[0].contains("`OCCLUDE_SERVE_MAX_BATCH`?")
        );
        assert!(found.notes[1].contains("`OCCLUDE_SERVE_MAX_IMAGES`?"), "{:?}", found.notes);
        let empty = read(&[("PORT", ""), ("GALLERY", " "), ("NONSENSE", "")]).unwrap();
        assert!(empty.settings.is_empty() && empty.notes.is_empty());
    }

    #[test]
    fn lists_and_switches() {
        assert_eq!(
            words(&[("CORS_ORIGIN", "https://a.example, https://b.example,")]),
            ["--cors-origin=https://a.example", "--cors-origin=https://b.example"]
        );
        assert_eq!(words(&[("MODEL", "a=x,1.onnx\nb=y.onnx\n")]), ["--model=a=x,1.onnx", "--model=b=y.onnx"]);
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a,b=c,d.onnx").to_string_lossy().into_owned();
        std::fs::write(&odd, "x").unwrap();
        let models = words(&[("MODEL", &format!("one=x.onnx,two={odd},{odd},y.onnx"))]);
        let expected = ["one=x.onnx".to_owned(), format!("two={odd}"), odd, "y.onnx".to_owned()];
        assert_eq!(models, expected.map(|m| format!("--model={m}")));
        for (text, on) in [("1", true), ("Yes", true), ("off", false), ("FALSE", false)] {
            assert_eq!(words(&[("ALLOW_URL_FETCH", text)]).len(), usize::from(on), "{text}");
        }
        let error = read(&[("ALLOW_URL_FETCH", "maybe")]).unwrap_err().to_string();
        assert!(
            error.contains("`OCCLUDE_SERVE_ALLOW_URL_FETCH`") && error.contains("`true` or `false`"),
            "{error}"
        );
    }
}
