//! Settings of a subcommand as a TOML table: read from a file, taken from the command line, and
//! turned back into flags. The settings and their types come from the subcommand's flags in clap;
//! there is no second list of them.

use std::{
    any::TypeId,
    collections::HashMap,
    error::Error as _,
    ffi::OsStr,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, FromArgMatches,
    builder::PossibleValuesParser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use toml::{Value, de::DeTable};

use crate::{
    one_line,
    run_dir::{self, CIRCUMSTANCES},
};
use tilewise::{
    error::{Error, Result},
    input_file, printable,
};

/// Values by the names of their flags.
pub(super) type Settings = toml::Table;

/// The flag that names the file.
const CONFIG: &str = "config";
/// The flag that names one of [`PRESETS`].
const PRESET: &str = "preset";
/// Settings that come with the program, by their names: those of the study.
const PRESETS: [(&str, &str); 8] = [
    ("best", include_str!("../presets/best.toml")),
    ("two-layer", include_str!("../presets/two-layer.toml")),
    ("three-layers", include_str!("../presets/three-layers.toml")),
    ("five-layers", include_str!("../presets/five-layers.toml")),
    ("overfit-50-three-layers", include_str!("../presets/overfit-50-three-layers.toml")),
    ("overfit-50-five-layers", include_str!("../presets/overfit-50-five-layers.toml")),
    ("six-layers-sgd", include_str!("../presets/six-layers-sgd.toml")),
    ("six-layers-momentum", include_str!("../presets/six-layers-momentum.toml")),
];
/// The largest file of settings, in bytes; those of a run have about one thousand.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How like each other two names must be, from 0 to 1, for one to be suggested for the other: an
/// edit in every second character at most.
const SIMILAR: f64 = 0.5;
/// What it counts where one name is part of the other: more than a few letters that both have by
/// chance, less than all letters but one.
const IS_PART: f64 = 0.75;
/// Most characters of a file that a message repeats.
const MAX_QUOTED: usize = 60;
/// Flags that say where results go and what is shown: not part of what repeats a run.
const NOT_OF_A_RUN: [&str; 4] = ["out", "overwrite", "quiet", "resume"];

/// Settings of the library whose flags have names of their own. The flags of all others are named
/// as the library names the setting, with `-` for `_`.
const FLAG_NAMES: [(&str, &str); 12] = [
    ("batch_size", "batch"),
    ("l2", "reg"),
    ("learning_rate", "lr"),
    ("schedule_every", "lr-step-epochs"),
    ("schedule_factor", "lr-decay"),
    ("schedule_final_divisor", "one-cycle-final-divisor"),
    ("schedule_initial_divisor", "one-cycle-initial-divisor"),
    ("schedule_minimum", "lr-min"),
    ("schedule_share", "one-cycle-share"),
    ("train_accuracy_samples", "acc-samples"),
    ("validation_samples", "val-samples"),
    ("validation_size", "val-size"),
];

/// The flag for a setting of the library, without the dashes before it.
fn flag_name(setting: &str) -> String {
    let own = FLAG_NAMES.iter().find(|(library, _)| *library == setting);
    own.map_or_else(|| setting.replace('_', "-"), |(_, flag)| (*flag).to_owned())
}

/// The text of an error of a subcommand, with a setting named as the flag that sets it.
pub(super) fn message(command: &clap::Command, error: &Error) -> String {
    let Error::Setting { name, value, expected } = error else { return error.to_string() };
    let flag = flag_name(name);
    let is_flag = |arg: &Arg| arg.get_long() == Some(flag.as_str());
    if command.get_arguments().any(is_flag) {
        format!("--{flag} {value}: expected {expected}")
    } else {
        error.to_string()
    }
}

/// The flags of `A` on a command line, and the file and the preset that add to them.
#[derive(Debug)]
pub struct Given<A> {
    config: Option<PathBuf>,
    preset: Option<String>,
    settings: Settings,
    args: PhantomData<A>,
}

impl<A: clap::Args> clap::Args for Given<A> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new(CONFIG).long(CONFIG).value_name("FILE").help(
            "TOML file of settings named as the flags, like a run's config.toml; flags override it",
        );
        let preset = Arg::new(PRESET)
            .long(PRESET)
            .value_name("NAME")
            .help("Built-in settings of the study; flags and --config override them");
        let names = PossibleValuesParser::new(PRESETS.map(|(name, _)| name));
        let command = command.arg(preset.value_parser(names));
        A::augment_args(command.arg(config.value_parser(clap::value_parser!(PathBuf))))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<A: clap::Args> FromArgMatches for Given<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::<A>::new();
        let settings = flags.values(matches, |source| source == ValueSource::CommandLine)?;
        let (config, preset) = (matches.get_one(CONFIG), matches.get_one(PRESET));
        let (config, preset) = (config.cloned(), preset.cloned());
        Ok(Self { config, preset, settings, args: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<A: clap::Args> Given<A> {
    /// The flags of the command line, those of the file that they leave open, and those of the
    /// preset that both leave open.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not TOML, has an unknown
    /// key, or a value that the flag would not accept.
    pub(super) fn settings(&self) -> Result<Settings> {
        let flags = Flags::<A>::new();
        let mut settings = self.settings.clone();
        if let Some(path) = &self.config {
            settings = flags.merge(&settings, flags.read(path)?);
            // What does not go together does so in the file: the command line has been checked.
            flags.parse(&settings).map_err(|detail| Error::file(path, detail))?;
        }
        if let Some((name, text)) =
            PRESETS.iter().find(|(name, _)| self.preset.as_deref() == Some(name))
        {
            settings = flags.merge(&settings, flags.read_text(name.as_ref(), text)?);
        }
        Ok(settings)
    }

    /// The text of an error that came of these settings. A setting that is wrong is named as it
    /// was spelled: as a key of the file, or as a flag.
    pub(super) fn message(&self, error: &Error) -> String {
        let Error::Setting { name, value, expected } = error else { return error.to_string() };
        let (flags, key) = (Flags::<A>::new(), flag_name(name));
        // A run that is resumed has its settings from its own file.
        let resumed = self.settings.get("resume").and_then(Value::as_str);
        let resumed = resumed.map(|dir| Path::new(dir).join(run_dir::CONFIG));
        if !self.settings.contains_key(&key)
            && let Some(path) = resumed.as_ref().or(self.config.as_ref())
            && flags.read(path).is_ok_and(|settings| settings.contains_key(&key))
        {
            format!("{}: {key} = {value}: expected {expected}", path.display())
        } else {
            message(&flags.command, error)
        }
    }
}

/// Whether a flag takes numbers, which may be below 0 by mistake.
pub(super) fn takes_numbers(arg: &Arg) -> bool {
    matches!(Kind::of(arg), Kind::Integer | Kind::Float)
}

/// The flags of `A`.
pub(super) struct Flags<A> {
    command: clap::Command,
    args: PhantomData<A>,
}

/// What a flag takes, as TOML knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Switch,
    Integer,
    Float,
    Text,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        if !arg.get_action().takes_values() {
            return Self::Switch;
        }
        let found = arg.get_value_parser().type_id();
        let is_one_of = |types: &[TypeId]| types.iter().any(|id| found == *id);
        if is_one_of(&[TypeId::of::<usize>(), TypeId::of::<u64>(), TypeId::of::<u32>()]) {
            Self::Integer
        } else if is_one_of(&[TypeId::of::<f64>(), TypeId::of::<f32>()]) {
            Self::Float
        } else {
            Self::Text
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Integer => "a whole number",
            Self::Float => "a number",
            Self::Text => "a string",
        }
    }

    /// A value as the argument of a flag; `None` if it is of another kind.
    fn to_text(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Self::Integer | Self::Float, Value::Integer(number)) => Some(number.to_string()),
            (Self::Float, Value::Float(number)) => Some(format!("{number:?}")),
            (Self::Text, Value::String(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// The value of an argument that the flag has accepted.
    fn to_value(self, text: &str) -> Value {
        let number = match self {
            Self::Integer => text.parse().ok().map(Value::Integer),
            Self::Float => text.parse().ok().map(Value::Float),
            Self::Switch | Self::Text => None,
        };
        number.unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

/// Whether a flag takes a list.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

impl<A: clap::Args> Flags<A> {
    pub(super) fn new() -> Self {
        let mut command = A::augment_args(clap::Command::new("flags").no_binary_name(true));
        command.build();
        Self { command, args: PhantomData }
    }

    /// The flags that a table can set.
    fn all(&self) -> impl Iterator<Item = (&str, &Arg)> {
        let flags = self.command.get_arguments();
        let flags = flags.filter(|arg| !matches!(arg.get_action(), ArgAction::Help));
        flags.filter_map(|arg| Some((arg.get_long()?, arg)))
    }

    fn get(&self, key: &str) -> Option<&Arg> {
        self.all().find(|&(name, _)| name == key).map(|(_, arg)| arg)
    }

    /// The name of the setting that has `key` as another name; else `key`.
    pub(super) fn name<'a>(&'a self, key: &'a str) -> &'a str {
        let is_alias = |arg: &Arg| arg.get_all_aliases().is_some_and(|names| names.contains(&key));
        self.all().find(|&(_, arg)| is_alias(arg)).map_or(key, |(name, _)| name)
    }

    /// The message for an unknown key: the most similar known one, if there is any.
    fn unknown(&self, key: &str) -> String {
        let spelled = key.replace('_', "-").to_lowercase();
        let words = || spelled.split('-');
        let initials: String = words().filter_map(|word| word.chars().next()).collect();
        let likeness = |name: &str| {
            // `learning_rate` for `lr`, `batch_size` for `batch`.
            let is_part = initials == name || words().any(|word| word == name);
            let near = strsim::normalized_damerau_levenshtein(name, &spelled);
            if is_part { near.max(IS_PART) } else { near }
        };
        let names = self.all().map(|(name, _)| (likeness(name), name));
        let best = names.filter(|&(likeness, _)| likeness >= SIMILAR);
        let advice = match best.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, name)) => format!("did you mean {name:?}?"),
            None => "settings are named as the flags of `tilewise train --help`".into(),
        };
        format!("{}: unknown setting; {advice}", shown_key(key))
    }

    /// What was said, as far as it comes from a `source` that is wanted.
    ///
    /// # Errors
    /// A value that is no text, which TOML cannot hold.
    fn values(
        &self,
        matches: &ArgMatches,
        wanted: impl Fn(ValueSource) -> bool,
    ) -> Result<Settings, clap::Error> {
        let mut settings = Settings::new();
        for (name, arg) in self.all() {
            let id = arg.get_id().as_str();
            if !matches.value_source(id).is_some_and(&wanted) {
                continue;
            }
            let kind = Kind::of(arg);
            let value = if kind == Kind::Switch {
                Some(matches.get_flag(id)).filter(|&on| on).map(Value::Boolean)
            } else {
                let texts = matches.get_raw(id).into_iter().flatten();
                let texts: Option<Vec<&str>> = texts.map(OsStr::to_str).collect();
                let no_text = || {
                    let detail = format!("the value of --{name} is not valid UTF-8");
                    self.command.clone().error(ErrorKind::InvalidUtf8, detail)
                };
                let mut values =
                    texts.ok_or_else(no_text)?.into_iter().map(|text| kind.to_value(text));
                if is_list(arg) { Some(Value::Array(values.collect())) } else { values.next() }
            };
            settings.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(settings)
    }

    /// The flag that sets `key`, once for each element of a list.
    fn arguments(&self, key: &str, value: &Value) -> Result<Vec<String>, String> {
        let arg = self.get(key).ok_or_else(|| self.unknown(key))?;
        let kind = Kind::of(arg);
        let list = if is_list(arg) { " or a list of at least one" } else { "" };
        let wrong = || {
            let (shown, found) = (shown(&value.to_string()), value.type_str());
            format!("{key} = {shown}: expected {}{list}, not a value of type {found}", kind.name())
        };
        if kind == Kind::Switch {
            let on = value.as_bool().ok_or_else(wrong)?;
            return Ok(on.then(|| format!("--{key}")).into_iter().collect());
        }
        let elements = match value {
            Value::Array(elements) if is_list(arg) && !elements.is_empty() => &elements[..],
            other => std::slice::from_ref(other),
        };
        let text = |element| kind.to_text(element).map(|text| format!("--{key}={text}"));
        let texts: Option<Vec<String>> = elements.iter().map(text).collect();
        texts.ok_or_else(wrong)
    }

    /// Checks that there is such a setting and that it takes the value.
    ///
    /// # Errors
    /// The problem.
    fn check(&self, key: &str, value: &Value) -> Result<(), String> {
        let arguments = self.arguments(key, value)?;
        let matches = self.command.clone().try_get_matches_from(arguments);
        let wrong = |error| format!("{key} = {}: {}", shown(&value.to_string()), reason(&error));
        matches.map(drop).map_err(wrong)
    }

    /// A value of the setting `key` as a flag would take it; elements of a list are joined by
    /// `-`.
    ///
    /// # Errors
    /// The problem.
    pub(super) fn value(&self, key: &str, text: &str) -> Result<Value, String> {
        let arg = self.get(key).ok_or_else(|| self.unknown(key))?;
        let kind = Kind::of(arg);
        let wrong = |reason: &str| format!("{key}={}: {reason}", shown(text));
        if kind == Kind::Switch {
            let on = text.parse().map_err(|_| wrong("expected true or false"))?;
            return Ok(Value::Boolean(on));
        }
        let parts: Vec<&str> = if is_list(arg) { text.split('-').collect() } else { vec![text] };
        let arguments = parts.iter().map(|part| format!("--{key}={part}"));
        let matches = self.command.clone().try_get_matches_from(arguments);
        matches.map_err(|error| wrong(&reason(&error)))?;
        let mut values = parts.into_iter().map(|part| kind.to_value(part));
        let value = if is_list(arg) { Some(Value::Array(values.collect())) } else { values.next() };
        value.ok_or_else(|| wrong("expected a value"))
    }

    /// Whether a setting is a number, and a whole one.
    pub(super) fn is_whole(&self, key: &str) -> Option<bool> {
        match Kind::of(self.get(key)?) {
            Kind::Integer => Some(true),
            Kind::Float => Some(false),
            Kind::Switch | Kind::Text => None,
        }
    }

    /// The settings of `over`, and those of `under` that they leave open and agree with.
    pub(super) fn merge(&self, over: &Settings, mut under: Settings) -> Settings {
        let conflict = |a: &str, b: &str| match (self.get(a), self.get(b)) {
            (Some(a), Some(b)) => self.command.get_arg_conflicts_with(a).contains(&b),
            _ => false,
        };
        under.retain(|key, _| {
            !over.keys().any(|name| name == key || conflict(name, key) || conflict(key, name))
        });
        under.extend(over.clone());
        under
    }

    /// Reads a file of settings.
    ///
    /// # Errors
    /// Same as [`Given::settings`].
    pub(super) fn read(&self, path: &Path) -> Result<Settings> {
        let text = input_file::read_text(path, MAX_FILE_BYTES)?;
        self.read_text(path, &text)
    }

    /// Reads settings from the text of the file `path`.
    ///
    /// # Errors
    /// Same as [`Given::settings`].
    fn read_text(&self, path: &Path, text: &str) -> Result<Settings> {
        let wrong = |at: usize, detail: &str| {
            let line = text[..at].matches('\n').count() + 1;
            Error::file(path, format!("line {line}: {detail}"))
        };
        let no_toml = |error: toml::de::Error| {
            wrong(error.span().map_or(0, |span| span.start), error.message())
        };
        let spans = DeTable::parse(text).map_err(no_toml)?;
        let keys = spans.get_ref().keys();
        let starts: HashMap<&str, usize> =
            keys.map(|key| (&**key.get_ref(), key.span().start)).collect();
        let mut settings: Settings = text.parse().map_err(no_toml)?;
        if settings.get(CIRCUMSTANCES).is_some_and(Value::is_table) {
            settings.remove(CIRCUMSTANCES);
        }
        let start = |key: &str| starts.get(key).copied().unwrap_or_default();
        let others: Vec<String> =
            settings.keys().filter(|key| self.name(key) != **key).cloned().collect();
        for key in others {
            let name = self.name(&key).to_owned();
            if settings.contains_key(&name) {
                let detail = format!("{key} is another name of {name}, which is set too");
                return Err(wrong(start(&key), &detail));
            }
            let value = settings.remove(&key).expect("a key of the table");
            self.check(&name, &value).map_err(|detail| wrong(start(&key), &detail))?;
            settings.insert(name, value);
        }
        for (key, value) in &settings {
            self.check(key, value).map_err(|detail| wrong(start(key), &detail))?;
        }
        Ok(settings)
    }

    /// The arguments with these settings, and all settings with the defaults of those that were
    /// not given, as far as they are part of what repeats a run.
    ///
    /// # Errors
    /// The problem with them.
    pub(super) fn parse(&self, settings: &Settings) -> Result<(A, Settings), String> {
        let mut arguments = Vec::new();
        for (key, value) in settings {
            arguments.extend(self.arguments(key, value)?);
        }
        let parsed = self.command.clone().try_get_matches_from(arguments).and_then(|matches| {
            Ok((A::from_arg_matches(&matches)?, self.values(&matches, |_| true)?))
        });
        let (args, mut all) = parsed.map_err(|error| reason(&error))?;
        all.retain(|key, _| !NOT_OF_A_RUN.contains(&key));
        Ok((args, all))
    }
}

/// A value in one word, as [`Flags::value`] reads it.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // TOML writes 1e300 with all its zeros.
        Value::Float(number) => format!("{number:?}"),
        Value::Array(elements) => elements.iter().map(word).collect::<Vec<_>>().join("-"),
        other => other.to_string(),
    }
}

/// A key as it is written in a file, in quotes if it is not a bare key.
fn shown_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(is_bare) {
        shown(key)
    } else {
        shown(&format!("{key:?}"))
    }
}

fn shown(text: &str) -> String {
    printable::inline(text, MAX_QUOTED)
}

/// What clap finds wrong, without the names of flags where there is one to blame: who calls names
/// it as the user has spelled it.
fn reason(error: &clap::Error) -> String {
    let names = |kind| match error.get(kind) {
        Some(ContextValue::String(name)) => vec![name.as_str()],
        Some(ContextValue::Strings(names)) => names.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    // `--data <DIR>` is the setting `data`.
    let key = |name: &str| {
        let name = name.split(' ').next().unwrap_or_default();
        name.trim_start_matches('-').to_owned()
    };
    match (error.kind(), error.source()) {
        (ErrorKind::ValueValidation, Some(source)) => source.to_string(),
        (ErrorKind::InvalidValue, _) => match &names(ContextKind::ValidValue)[..] {
            [] => "expected a value".into(),
            values => format!("expected one of {}", values.join(", ")),
        },
        (ErrorKind::ArgumentConflict, _) => {
            let [first, second] = [ContextKind::InvalidArg, ContextKind::PriorArg]
                .map(|kind| names(kind).into_iter().map(key).collect::<Vec<_>>().join(", "));
            format!("{first} cannot be used with {second}")
        }
        _ => {
            let line = one_line(&error.render().to_string());
            line.strip_prefix("error: ").map(str::to_owned).unwrap_or(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::train::TrainArgs;

    /// A text that the flag accepts, found by trial.
    fn sample(flags: &Flags<TrainArgs>, name: &str, arg: &Arg) -> Value {
        let kind = Kind::of(arg);
        let names = arg.get_possible_values();
        let names = names.iter().map(|value| value.get_name().to_owned());
        let values = ["3", "0.5", "some/path"].map(str::to_owned).into_iter().chain(names);
        let mut values = values.map(|text| match kind {
            Kind::Switch => Value::Boolean(true),
            _ if is_list(arg) => Value::Array(vec![kind.to_value(&text); 2]),
            _ => kind.to_value(&text),
        });
        let found = values.find(|value| flags.check(name, value).is_ok());
        found.unwrap_or_else(|| panic!("--{name} takes nothing that this test knows"))
    }

    #[test]
    fn every_flag_of_train_can_stand_in_a_file_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let flags = Flags::<TrainArgs>::new();
        let mut count = 0;
        for (name, arg) in flags.all() {
            let settings = Settings::from_iter([(name.to_owned(), sample(&flags, name, arg))]);
            fs::write(&path, settings.to_string()).unwrap();
            assert_eq!(flags.read(&path).unwrap(), settings);
            let (_, all) = flags.parse(&settings).unwrap();
            if !NOT_OF_A_RUN.contains(&name) {
                assert_eq!(all.get(name), settings.get(name), "--{name}");
            }
            count += 1;
        }
        assert!(count > 20, "{count} flags");
        for name in NOT_OF_A_RUN {
            assert!(flags.get(name).is_some(), "{name} is no flag");
        }
    }

    #[test]
    fn settings_of_the_library_are_named_as_flags() {
        let flags = Flags::<TrainArgs>::new();
        for (library, flag) in FLAG_NAMES {
            let error = Error::Setting { name: library, value: "7".into(), expected: "8".into() };
            assert_eq!(message(&flags.command, &error), format!("--{flag} 7: expected 8"));
        }
        for (name, expected) in [
            ("label_smoothing", "--label-smoothing 7: expected 8"),
            ("dropout", "--dropout 7: expected 8"),
            ("scratches", "scratches = 7: expected 8"),
        ] {
            let error = Error::Setting { name, value: "7".into(), expected: "8".into() };
            assert_eq!(message(&flags.command, &error), expected);
        }
    }

    #[test]
    fn a_setting_has_the_name_that_it_had() {
        let flags = Flags::<TrainArgs>::new();
        let path = Path::new("c.toml");
        let settings = flags.read_text(path, "dtype = \"f64\"").unwrap();
        assert_eq!(settings.get("precision").and_then(Value::as_str), Some("f64"));
        assert!(!settings.contains_key("dtype"));
        for (text, expected) in [
            ("lr = 0.1\ndtype = \"f64\"\nprecision = \"f32\"", "line 2: dtype is another name of"),
            (
                "lr = 0.1\ndtype = \"f16\"",
                "line 2: precision = \"f16\": expected one of f32, f64, bf16",
            ),
        ] {
            let error = flags.read_text(path, text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn presets_are_settings_of_train() {
        let flags = Flags::<TrainArgs>::new();
        for (name, text) in PRESETS {
            let settings = flags.read_text(name.as_ref(), text).unwrap();
            flags.parse(&settings).unwrap();
        }
    }

    #[test]
    fn numbers_survive_the_way_through_a_flag() {
        for number in [0.1, 1e-300, 12345678.9, 3.0, f64::MIN_POSITIVE] {
            let text = Kind::Float.to_text(&Value::Float(number)).unwrap();
            assert_eq!(Kind::Float.to_value(&text), Value::Float(number));
        }
        assert_eq!(Kind::Float.to_text(&Value::Integer(2)).as_deref(), Some("2"));
        assert_eq!(Kind::Integer.to_text(&Value::Float(2.0)), None);
    }
}
