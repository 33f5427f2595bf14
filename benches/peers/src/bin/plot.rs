//! Draws the JSON of `peers` as SVG: a line for each product, a mark for each contestant, from no
//! speed at all to the peak.

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use plotters::{
    element::{Circle, PathElement, Text},
    prelude::{BLACK, Color, IntoDrawingArea, RGBColor, SVGBackend, WHITE},
    style::{
        FontStyle, IntoFont, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};
use serde_json::Value;

/// Draw fractions of the peak.
#[derive(Debug, Parser)]
#[command(name = "plot")]
struct Args {
    /// Files that `peers --json` printed; their rows are drawn in this order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only rows whose name contains this, like "f32 t1".
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    only: String,
    /// Above the plot.
    #[arg(long)]
    title: String,
    /// Where to write the plot.
    #[arg(long, value_name = "FILE")]
    svg: PathBuf,
}

/// Contestants with their colors, in the order in which they are drawn: the last one is on top.
const COLORS: [(&str, RGBColor); 7] = [
    ("matrixmultiply", RGBColor(150, 150, 150)),
    ("gemmkit", RGBColor(181, 139, 0)),
    ("MKL", RGBColor(31, 154, 168)),
    ("OpenBLAS", RGBColor(156, 96, 190)),
    ("gemm", RGBColor(46, 158, 107)),
    ("faer", RGBColor(217, 114, 43)),
    ("tilewise", RGBColor(24, 78, 160)),
];
const GRID: RGBColor = RGBColor(222, 222, 222);

/// Pixels.
const WIDTH: i32 = 860;
const LEFT: i32 = 150;
const RIGHT: i32 = 40;
const ABOVE: i32 = 56;
const BELOW: i32 = 36;
const ROW: i32 = 24;
const SIZE: i32 = 12;

/// A row's name without type and threads, and the fraction of each contestant.
type Row = (String, BTreeMap<String, f64>);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for file in &args.files {
        let context = |error: &dyn Error| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| context(&error))?;
        let run: Value = serde_json::from_str(&text).map_err(|error| context(&error))?;
        rows.extend(rows_of(&run, &args.only));
    }
    if rows.is_empty() {
        return Err(format!("no row has {:?} in its name", args.only).into());
    }
    Ok(fs::write(&args.svg, draw(&args.title, &rows)?)?)
}

/// The rows of a run whose names contain a text.
fn rows_of(run: &Value, only: &str) -> Vec<Row> {
    let rows = run["rows"].as_array().into_iter().flatten();
    let chosen = rows.filter_map(|row| {
        let name = row["name"].as_str().filter(|name| name.contains(only))?;
        let contestants = row["contestants"].as_object()?.iter();
        let fractions = contestants
            .filter_map(|(contestant, found)| Some((contestant.clone(), found["best"].as_f64()?)));
        Some((name.splitn(3, ' ').last()?.to_owned(), fractions.collect()))
    });
    chosen.collect()
}

fn draw(title: &str, rows: &[Row]) -> Result<String, Box<dyn Error>> {
    let bottom = ABOVE + ROW * i32::try_from(rows.len())?;
    let x = |fraction: f64| LEFT + (fraction * f64::from(WIDTH - LEFT - RIGHT)).round() as i32;
    let style = |bold: bool, at: HPos| {
        let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = ("sans-serif", SIZE).into_font().style(weight);
        TextStyle::from(font).color(&BLACK).pos(Pos::new(at, VPos::Center))
    };
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(bottom + BELOW)?);
        let page = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        page.fill(&WHITE)?;
        page.draw(&Text::new(title, (8, 14), style(true, HPos::Left)))?;
        for tenth in 0..=10 {
            let at = x(f64::from(tenth) / 10.0);
            page.draw(&PathElement::new([(at, ABOVE), (at, bottom)], GRID.stroke_width(1)))?;
            let label = if tenth == 10 { "peak".into() } else { format!("0.{tenth}") };
            page.draw(&Text::new(label, (at, bottom + 12), style(false, HPos::Center)))?;
        }
        let mut legend = LEFT;
        for (contestant, color) in COLORS.iter().rev() {
            if !rows.iter().any(|(_, fractions)| fractions.contains_key(*contestant)) {
                continue;
            }
            page.draw(&Circle::new((legend, 36), 5, color.filled()))?;
            page.draw(&Text::new(*contestant, (legend + 9, 36), style(false, HPos::Left)))?;
            legend += 28 + 7 * i32::try_from(contestant.len())?;
        }
        for (y, (name, fractions)) in (ABOVE + ROW / 2..).step_by(ROW as usize).zip(rows) {
            page.draw(&PathElement::new([(LEFT, y), (x(1.0), y)], GRID.stroke_width(1)))?;
            page.draw(&Text::new(name.as_str(), (LEFT - 8, y), style(false, HPos::Right)))?;
            for (contestant, color) in &COLORS {
                if let Some(&fraction) = fractions.get(*contestant) {
                    let radius = if *contestant == "tilewise" { 6 } else { 4 };
                    page.draw(&Circle::new((x(fraction), y), radius, color.filled()))?;
                }
            }
        }
        page.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_chosen_by_name_and_drawn_up_to_the_peak() {
        let row = |name: &str, best: f64| {
            let absent = json!({ "absent": "missing" });
            json!({ "name": name, "contestants": { "tilewise": { "best": best }, "MKL": absent } })
        };
        let run = json!({ "rows": [row("f32 t1 nn 8x8x8", 1.0), row("f64 t1 tn 9x9x9", 0.5)] });
        let rows = rows_of(&run, "f32 ");
        assert_eq!(rows, [("nn 8x8x8".into(), BTreeMap::from([("tilewise".into(), 1.0)]))]);
        let svg = draw("a title", &rows).unwrap();
        assert!(["a title", "nn 8x8x8", "peak"].iter().all(|text| svg.contains(text)), "{svg}");
        // A product at the peak is at the right end, and who did not take part is not in the legend.
        let end = format!("cx=\"{}\"", WIDTH - RIGHT);
        assert!(svg.contains(&end) && !svg.contains("MKL"), "{svg}");
    }
}
