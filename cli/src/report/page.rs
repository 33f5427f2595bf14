//! The page: a summary, curves, settings, and the test results of each network. Text is
//! escaped where it enters the template, and control characters in the page as a whole.

use std::error::Error;

use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::style::RGBColor;
use toml::Value;

use crate::{
    console::{self, thousands},
    plots::{self, COLORS},
    report::{Run, findings::Findings},
    run_dir::Metrics,
};
use tilewise::printable;

/// The cell of a run in one row of a table.
type Figure<'a> = &'a dyn Fn(&Run) -> Option<String>;

/// The value of an epoch in a chart.
type Curve = fn(&Metrics) -> f64;

const STYLE: &str = include_str!("style.css");

/// Makes the page.
///
/// # Errors
/// Those of the drawing library.
pub(super) fn page(runs: &[Run]) -> Result<String, Box<dyn Error>> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("Training report: {}", names.join(", "));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Training report" }
                    p.lead { (lead(runs)) }
                }
                main {
                    section { h2 { "Summary" } (summary(runs)) }
                    section { h2 { "Curves" } (curves(runs)?) }
                    section { h2 { "Settings" } (settings(runs)) }
                    (classes(runs))
                    (networks(runs))
                }
                footer { "Made by tilewise " (env!("CARGO_PKG_VERSION")) "." }
            }
        }
    };
    Ok(printable::lines(&page.into_string()).into_owned())
}

fn lead(runs: &[Run]) -> String {
    let best = runs.iter().filter_map(|run| Some((run, run.files.best()?)));
    let best = best.reduce(|a, b| if b.1.val_acc > a.1.val_acc { b } else { a });
    let Some((run, epoch)) = best else { return "No run has finished an epoch.".into() };
    let accuracy = percent(epoch.val_acc);
    match runs {
        [_] => format!("{}: {accuracy} of the validation images at best.", run.name),
        _ => format!(
            "{} runs. The best is {}, with {accuracy} of the validation images.",
            runs.len(),
            run.name
        ),
    }
}

/// A run's color and name.
fn name(runs: &[Run], number: usize) -> Markup {
    let RGBColor(red, green, blue) = COLORS[number % COLORS.len()];
    html! {
        span.run {
            span.swatch style=(format!("background: rgb({red} {green} {blue})")) {}
            (runs[number].name)
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn share((right, all): (usize, usize)) -> Option<f64> {
    (all > 0).then(|| right as f64 / all as f64)
}

fn summary(runs: &[Run]) -> Markup {
    let none = || "–".to_owned();
    let best =
        |run: &Run| run.files.best().map(|e| format!("{} (epoch {})", percent(e.val_acc), e.epoch));
    let rows: [(&str, Figure<'_>); 10] = [
        ("Best validation accuracy", &best),
        ("Test accuracy of that network", &|run| {
            share(run.findings.as_ref().ok()?.all()).map(percent)
        }),
        ("Training accuracy at the end", &|run| Some(percent(run.files.epochs.last()?.train_acc))),
        ("Loss at the end", &|run| Some(format!("{:.4}", run.files.epochs.last()?.loss))),
        ("Epochs", &|run| {
            let planned = run.files.settings.get("epochs").and_then(Value::as_integer);
            let done = run.files.epochs.len();
            Some(match planned {
                Some(planned) if planned != done as i64 => format!("{done} of {planned}"),
                _ => done.to_string(),
            })
        }),
        ("Training time", &|run| Some(format!("{:.1} s", run.files.seconds()))),
        ("Throughput, median epoch", &|run| {
            let mut rates: Vec<f64> = run.files.epochs.iter().map(|e| e.images_per_s).collect();
            rates.sort_by(f64::total_cmp);
            Some(format!("{} images/s", thousands(*rates.get(rates.len() / 2)?)))
        }),
        ("Network", &|run| Some(run.findings.as_ref().ok()?.network.clone())),
        ("Parameters", &|run| Some(thousands(run.findings.as_ref().ok()?.parameters as f64))),
        ("Instruction set, version", &|run| {
            let text = |key: &str| Some(console::name(run.files.circumstances.get(key)?.as_str()?));
            Some(format!("{}, {}", text("instruction-set")?, text("version")?))
        }),
    ];
    html! {
        div.wide { table {
            thead { tr { th {} @for number in 0..runs.len() { th.figure { (name(runs, number)) } } } }
            tbody { @for (label, value) in rows {
                tr {
                    th scope="row" { (label) }
                    @for run in runs { td.figure { (value(run).unwrap_or_else(none)) } }
                }
            } }
        } }
        @for run in runs {
            @if let Err(reason) = &run.findings {
                p.note { (run.name) ": its network was not tested, because " (reason) "." }
            }
        }
    }
}

fn curves(runs: &[Run]) -> Result<Markup, Box<dyn Error>> {
    let charts: [(&str, Curve); 4] = [
        ("Training loss", |epoch| epoch.loss),
        ("Validation accuracy", |epoch| epoch.val_acc),
        ("Training accuracy (sample)", |epoch| epoch.train_acc),
        ("Learning rate", |epoch| epoch.lr),
    ];
    let draw = |(title, value): (&str, fn(&Metrics) -> f64)| {
        let points = |run: &Run| -> Vec<(f64, f64)> {
            run.files.epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect()
        };
        plots::lines(title, &runs.iter().map(points).collect::<Vec<_>>())
    };
    let drawn = charts.into_iter().map(draw).collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        p.legend { @for number in 0..runs.len() { (name(runs, number)) " " } }
        div.charts { @for svg in &drawn { div.chart { (PreEscaped(svg)) } } }
    })
}

fn settings(runs: &[Run]) -> Markup {
    let mut keys: Vec<&str> = Vec::new();
    for key in runs.iter().flat_map(|run| run.files.settings.keys()) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let value = |run: &Run, key: &str| match run.files.settings.get(key) {
        Some(Value::String(text)) => console::name(text),
        Some(value) => console::name(&value.to_string()),
        None => "–".to_owned(),
    };
    let (equal, different): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .partition(|key| runs.windows(2).all(|pair| value(&pair[0], key) == value(&pair[1], key)));
    let table = |keys: &[&str], runs: &[Run], head: bool| {
        html! {
            div.wide { table {
                @if head {
                    thead { tr { th {} @for n in 0..runs.len() { th.figure { (name(runs, n)) } } } }
                }
                tbody { @for key in keys {
                    tr {
                        th scope="row" { code { (console::name(key)) } }
                        @for run in runs { td.figure { (value(run, key)) } }
                    }
                } }
            } }
        }
    };
    html! {
        @if runs.len() == 1 {
            (table(&equal, runs, false))
        } @else {
            @if different.is_empty() {
                p { "All settings are the same." }
            } @else {
                (table(&different, runs, true))
            }
            @if !equal.is_empty() {
                details { summary { "The same in all runs" } (table(&equal, &runs[..1], false)) }
            }
        }
    }
}

/// The runs whose networks were tested, with their numbers.
fn tested(runs: &[Run]) -> impl Iterator<Item = (usize, &Findings)> {
    runs.iter().enumerate().filter_map(|(number, run)| Some((number, run.findings.as_ref().ok()?)))
}

fn classes(runs: &[Run]) -> Markup {
    let Some((_, first)) = tested(runs).next() else { return html! {} };
    // Runs on other images have classes of their own.
    let alike: Vec<_> =
        tested(runs).filter(|(_, found)| found.class_names == first.class_names).collect();
    html! {
        section {
            h2 { "Accuracy by class" }
            p { "Of the " (thousands(first.all().1 as f64)) " test images, at the epoch of the best \
                validation accuracy." }
            div.wide { table {
                thead { tr {
                    th {} @for (number, _) in &alike { th { (name(runs, *number)) } }
                } }
                tbody { @for (class, label) in first.class_names.iter().enumerate() {
                    tr {
                        th scope="row" { (label) }
                        @for (number, found) in &alike {
                            td { (bar(*number, share(found.class(class)))) }
                        }
                    }
                } }
            } }
        }
    }
}

/// A fraction as a bar in a run's color, with its number.
fn bar(number: usize, share: Option<f64>) -> Markup {
    let RGBColor(red, green, blue) = COLORS[number % COLORS.len()];
    let width = 100.0 * share.unwrap_or(0.0);
    let style = format!("width: {width:.1}%; background: rgb({red} {green} {blue})");
    html! {
        span.bar {
            span.value { (share.map_or_else(|| "–".to_owned(), percent)) }
            span.track { span.fill style=(style) {} }
        }
    }
}

fn networks(runs: &[Run]) -> Markup {
    html! {
        @if tested(runs).next().is_some() {
            section {
                h2 { "Confusion matrix" }
                p { "Rows are the labels, columns the predictions; in percent of the row." }
                div.pair { @for (number, found) in tested(runs) {
                    div { h3 { (name(runs, number)) } (confusion(found)) }
                } }
            }
            (first_layers(runs))
            section {
                h2 { "Most confident mistakes" }
                @for (number, found) in tested(runs) {
                    h3 { (name(runs, number)) }
                    (mistakes(found))
                }
            }
        }
    }
}

/// The weights of the first layers, where there are any to show.
fn first_layers(runs: &[Run]) -> Markup {
    let shown =
        || tested(runs).filter_map(|(number, found)| Some((number, found.weights.as_ref()?)));
    html! {
        @if shown().next().is_some() {
            section {
                h2 { "First layer" }
                p { "The weights of a unit as an image: gray is zero. The units with the largest \
                    weights come first." }
                @for (number, weights) in shown() {
                    h3 {
                        (name(runs, number))
                        span.aside { (weights.shown) " of " (weights.units) " units" }
                    }
                    img.weights src=(data_url(&weights.png))
                        alt=(format!("weights of {} units", weights.shown));
                }
            }
        }
    }
}

fn confusion(found: &Findings) -> Markup {
    let names = &found.class_names;
    html! {
        div.wide { table.confusion {
            thead { tr { th {} @for name in names { th.column { span { (name) } } } } }
            tbody { @for (row, label) in names.iter().enumerate() {
                tr {
                    th scope="row" { (label) }
                    @for column in 0..names.len() {
                        (cell(found, row, column))
                    }
                }
            } }
        } }
    }
}

fn cell(found: &Findings, row: usize, column: usize) -> Markup {
    let (_, images) = found.class(row);
    let count = found.confusion[row][column];
    let part = share((count, images)).unwrap_or(0.0);
    let class = if row == column { "right" } else { "wrong" };
    let (label, predicted) = (&found.class_names[row], &found.class_names[column]);
    html! {
        td class=(class) style=(format!("--part: {:.0}%", 100.0 * part.sqrt()))
            title=(format!("{label} classified as {predicted}: {count} of {images}")) {
            @if count > 0 { (format!("{:.0}", 100.0 * part)) }
        }
    }
}

fn mistakes(found: &Findings) -> Markup {
    html! {
        @if found.mistakes.is_empty() { p { "None." } }
        div.mistakes { @for mistake in &found.mistakes {
            figure {
                img src=(data_url(&mistake.png)) alt="";
                figcaption {
                    b { (found.class_names[mistake.predicted]) }
                    " " (format!("{:.0} %", 100.0 * mistake.probability)) br;
                    "is " (found.class_names[mistake.label])
                }
            }
        } }
    }
}

fn data_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}
