//! A course as a picture: store sizes and moved bytes over time, as SVG text.

use std::fmt::Write;

use super::converge::{Course, Event, Point};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const GIB: f64 = (1_u64 << 30) as f64;
/// Points in a line; more would make a large file that looks the same.
const POINTS_MAX: usize = 400;

/// The picture: one panel for each course, one below the other.
pub(super) fn svg(courses: &[Course]) -> String {
    let panel_height = TOP + HEIGHT + BOTTOM;
    let (width, height) = (LEFT + WIDTH + 30.0, panel_height * courses.len() as f64);
    let mut text = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
"##
    );
    for (index, course) in courses.iter().enumerate() {
        let _ = writeln!(text, r#"<g transform="translate(0,{})">"#, panel_height * index as f64);
        panel(&mut text, course);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, course: &Course) {
    let every = course.points.len().div_ceil(POINTS_MAX).max(1);
    let points: Vec<&Point> = course.points.iter().step_by(every).collect();
    let seconds = course.points.last().map_or(1.0, |point| point.seconds);
    let most = points.iter().map(|point| point.others_bytes.1.max(point.subject_bytes)).fold(1.0, f64::max);
    let scale = Scale { seconds, most };
    let (title, subject) = match course.event {
        Event::Join => ("an empty node joins", "a store of the new node"),
        Event::Death => ("a node dies", "a store of the dead node"),
    };
    let (moved_gib, ratio) = (course.moved_bytes / GIB, course.ratio());
    let _ = writeln!(
        text,
        r#"<text x="{LEFT}" y="22" font-size="15">{title}: bytes of a store; moved {moved_gib:.1} GiB, {ratio:.3} x the least possible</text>"#,
    );
    grid(text, &scale);
    let moved = course.moved_bytes.max(course.least_bytes);
    let lines: [Line<'_>; 4] = [
        ("#1f77b4", subject, &|point| point.subject_bytes),
        ("#999", "the smallest of the others", &|point| point.others_bytes.0),
        ("#333", "the largest of the others", &|point| point.others_bytes.1),
        ("#d62728", "moved so far, share of the whole height", &|point| point.moved_bytes / moved * most),
    ];
    for (index, (color, name, value)) in lines.iter().enumerate() {
        let mut path = String::new();
        for point in &points {
            let _ = write!(path, "{:.1},{:.1} ", scale.x(point.seconds), scale.y(value(point)));
        }
        let y = TOP + HEIGHT * 0.2 + 18.0 * index as f64;
        let x = LEFT + 16.0;
        let _ = writeln!(
            text,
            r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>
<line x1="{x}" y1="{y}" x2="{}" y2="{y}" stroke="{color}" stroke-width="3"/><text x="{}" y="{}">{name}</text>"#,
            x + 20.0,
            x + 26.0,
            y + 4.0
        );
    }
}

/// Colour, name, and the value at a point.
type Line<'a> = (&'a str, &'a str, &'a dyn Fn(&Point) -> f64);

struct Scale {
    seconds: f64,
    most: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.seconds * WIDTH
    }

    fn y(&self, bytes: f64) -> f64 {
        TOP + HEIGHT - bytes / self.most * HEIGHT
    }
}

fn grid(text: &mut String, scale: &Scale) {
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (y, x) = (scale.y(share * scale.most), scale.x(share * scale.seconds));
        let _ = writeln!(
            text,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{:.0} GiB</text>
<text x="{x:.1}" y="{:.1}" text-anchor="middle">{:.0} s</text>"##,
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0,
            share * scale.most / GIB,
            TOP + HEIGHT + 20.0,
            share * scale.seconds
        );
    }
}
