//! Python's `json.dumps` and `strftime`, which templates see through.

use std::borrow::Cow;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, ValueKind},
};

use super::message::Moment;

/// Values are nested at most so deep.
const MAX_DEPTH: usize = 100;

/// Python's methods of strings, lists and dicts.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    // The library's own breaks lines at `\n` only.
    if let (Some(text), "splitlines") = (value.as_str(), method) {
        let keep_ends = args.first().is_some_and(Value::is_true);
        state.consume_fuel(text.len() as u64 / 16)?;
        return Ok(lines(text, keep_ends).map(Value::from).collect());
    }
    if let (Some(text), [], "strip" | "lstrip" | "rstrip") = (value.as_str(), args, method) {
        let text = if method == "rstrip" {
            text
        } else {
            text.trim_start_matches(is_space)
        };
        let text = if method == "lstrip" {
            text
        } else {
            text.trim_end_matches(is_space)
        };
        state.consume_fuel(text.len() as u64 / 64)?;
        return Ok(Value::from(text));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The filter `trim(value, chars=None)`.
pub(super) fn trim(
    state: &mut State<'_, '_>,
    value: &Value,
    chars: Option<Value>,
) -> Result<Value, Error> {
    let text = value
        .as_str()
        .map_or_else(|| Cow::from(value.to_string()), Cow::from);
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(Value::from(match chars.as_ref().and_then(Value::as_str) {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => text.trim_matches(is_space),
    }))
}

/// Python's `str.isspace`: Unicode's white space and four separators that it does not count.
const fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The lines of a text as `str.splitlines` has them.
fn lines(text: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(ENDS).unwrap_or(rest.len());
        let end = match rest[at..].chars().next() {
            Some('\r') if rest[at..].starts_with("\r\n") => at + 2,
            Some(c) => at + c.len_utf8(),
            None => at,
        };
        let line = &rest[..if keep_ends { end } else { at }];
        rest = &rest[end..];
        Some(line)
    })
}

/// The filter `tojson` as transformers defines it:
/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let named = |at: usize, name: &str| -> Result<Value, Error> {
        let by_name: Option<Value> = options.get(name)?;
        match (args.get(at), by_name) {
            (Some(_), Some(_)) => Err(Error::from(ErrorKind::TooManyArguments)),
            (Some(by_place), None) => Ok(by_place.clone()),
            (None, by_name) => Ok(by_name.unwrap_or_default()),
        }
    };
    let ensure_ascii = named(0, "ensure_ascii")?.is_true();
    let indent = named(1, "indent")?;
    let separators = named(2, "separators")?;
    let sort_keys = named(3, "sort_keys")?.is_true();
    options.assert_all_used()?;
    if args.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let indent = match indent.kind() {
        ValueKind::Undefined | ValueKind::None => None,
        ValueKind::String => Some(indent.to_string()),
        ValueKind::Bool => Some(" ".repeat(usize::from(indent.is_true()))),
        _ => Some(" ".repeat(i64::try_from(indent)?.clamp(0, 64) as usize)),
    };
    let (item, key) = match separators.kind() {
        ValueKind::Undefined | ValueKind::None => (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        ),
        _ => (separators.get_item_by_index(0)?.to_string(), {
            separators.get_item_by_index(1)?.to_string()
        }),
    };
    let mut writer = JsonWriter {
        out: String::new(),
        ensure_ascii,
        indent,
        item,
        key,
        sort_keys,
    };
    writer.value(value, 0)?;
    state.consume_fuel(writer.out.len() as u64 / 16)?;
    Ok(Value::from(writer.out))
}

struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson: nested too deep",
            ));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.start_item(&mut empty, depth + 1);
                    self.value(&item, depth + 1)?;
                }
                self.end_items(empty, depth);
                self.out.push(']');
            }
            ValueKind::Map => {
                self.out.push('{');
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                let mut empty = true;
                for key in keys {
                    self.start_item(&mut empty, depth + 1);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                        ValueKind::None => self.out.push_str("\"null\""),
                        ValueKind::Bool => {
                            self.string(if key.is_true() { "true" } else { "false" });
                        }
                        ValueKind::Number => self.string(&number(&key)?),
                        kind => return Err(not_json(kind)),
                    }
                    self.out.push_str(&self.key);
                    self.value(&value.get_item(&key)?, depth + 1)?;
                }
                self.end_items(empty, depth);
                self.out.push('}');
            }
            kind => return Err(not_json(kind)),
        }
        Ok(())
    }

    fn start_item(&mut self, empty: &mut bool, depth: usize) {
        if !*empty {
            self.out.push_str(&self.item);
        }
        *empty = false;
        self.line(depth);
    }

    fn end_items(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..'\u{20}' => self.escape(c),
                '\u{7f}'.. if self.ensure_ascii => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

fn not_json(kind: ValueKind) -> Error {
    let detail = format!("tojson: {kind} cannot be written as JSON");
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// A number as Python writes it: whole floats with `.0`, very large and small ones with an
/// exponent of at least two digits.
fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    if number.is_nan() {
        return Ok("NaN".to_owned());
    }
    if number.is_infinite() {
        return Ok(if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned());
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    Ok(if (-4..16).contains(&exponent) || number == 0.0 {
        format!("{number:?}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    })
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Year, month 1..=12 and day 1..=31 of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the leap day is the last; eras have 400 of them.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (
        era * 400 + year + i64::from(month <= 2),
        month,
        day_of_month,
    )
}

/// `datetime.now().strftime(format)` in the C locale; `None`: a code that is not known. A hyphen
/// after the percent sign leaves the padding out.
pub(super) fn strftime(now: Moment, format: &str) -> Option<String> {
    let local = now
        .unix_seconds
        .checked_add(i64::from(now.utc_offset_seconds))?;
    let (days, second_of_day) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    if !(-719_000..=2_932_000).contains(&days) {
        return None; // years 1 to 9999
    }
    let (year, month, day) = date(days);
    let weekday = (days + 4).rem_euclid(7);
    let new_year = {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        before[month as usize - 1] + day + i64::from(leap && month > 2)
    };
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        local.rem_euclid(60),
    );
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next()?;
        let pad = code != '-';
        if !pad {
            code = chars.next()?;
        }
        let mut padded = |number: i64, width: usize, fill: char| {
            let digits = number.to_string();
            let missing = if pad {
                width.saturating_sub(digits.len())
            } else {
                0
            };
            out.extend(std::iter::repeat_n(fill, missing));
            out.push_str(&digits);
        };
        match code {
            'Y' => padded(year, 4, '0'),
            'y' => padded(year % 100, 2, '0'),
            'C' => padded(year / 100, 2, '0'),
            'm' => padded(month, 2, '0'),
            'd' => padded(day, 2, '0'),
            'e' => padded(day, 2, ' '),
            'j' => padded(new_year, 3, '0'),
            'H' => padded(hour, 2, '0'),
            'I' => padded(hour12, 2, '0'),
            'k' => padded(hour, 2, ' '),
            'l' => padded(hour12, 2, ' '),
            'M' => padded(minute, 2, '0'),
            'S' => padded(second, 2, '0'),
            'w' => padded(weekday, 1, '0'),
            'u' => padded((weekday + 6) % 7 + 1, 1, '0'),
            'U' => padded((new_year + 6 - weekday) / 7, 2, '0'),
            'W' => padded((new_year + 6 - (weekday + 6) % 7) / 7, 2, '0'),
            'A' => out.push_str(DAYS[weekday as usize]),
            'a' => out.push_str(&DAYS[weekday as usize][..3]),
            'B' => out.push_str(MONTHS[month as usize - 1]),
            'b' | 'h' => out.push_str(&MONTHS[month as usize - 1][..3]),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'f' => out.push_str("000000"), // whole seconds
            'Z' | 'z' => {}                // Python's local time does not know its zone
            'F' => out.push_str(&strftime(now, "%Y-%m-%d")?),
            'T' | 'X' => out.push_str(&strftime(now, "%H:%M:%S")?),
            'R' => out.push_str(&strftime(now, "%H:%M")?),
            'D' | 'x' => out.push_str(&strftime(now, "%m/%d/%y")?),
            'c' => out.push_str(&strftime(now, "%a %b %e %H:%M:%S %Y")?),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(unix_seconds: i64) -> Moment {
        Moment {
            unix_seconds,
            utc_offset_seconds: 0,
        }
    }

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, want) in [
            (0, "1970-01-01 Thu 001 00:00:00"),
            (-1, "1969-12-31 Wed 365 23:59:59"),
            (951_782_400, "2000-02-29 Tue 060 00:00:00"),
            (1_735_689_599, "2024-12-31 Tue 366 23:59:59"),
            (4_107_542_400, "2100-03-01 Mon 060 00:00:00"),
        ] {
            let got = strftime(moment(seconds), "%Y-%m-%d %a %j %H:%M:%S").unwrap();
            assert_eq!(got, want, "{seconds}");
        }
        let ahead = Moment {
            unix_seconds: 86_399,
            utc_offset_seconds: 3600,
        };
        assert_eq!(strftime(ahead, "%d %H").unwrap(), "02 00");
    }

    #[test]
    fn codes_are_those_of_c() {
        let now = moment(1_752_624_005); // Wednesday, 16 July 2025, 00:00:05
        for (format, want) in [
            ("%d %b %Y", "16 Jul 2025"),
            ("%B %-d, %y", "July 16, 25"),
            ("%A %p %I %-I", "Wednesday AM 12 12"),
            ("%F %T %R %D", "2025-07-16 00:00:05 00:00 07/16/25"),
            ("%U %W %u %w %e|%k|%l", "28 28 3 3 16| 0|12"),
            ("%c%%%n%Z", "Wed Jul 16 00:00:05 2025%\n"),
        ] {
            assert_eq!(strftime(now, format).unwrap(), want, "{format}");
        }
        for unknown in ["%Q", "%", "%-"] {
            assert_eq!(strftime(now, unknown), None, "{unknown}");
        }
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let cases: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("a\r\nb\n\nc", &["a", "b", "", "c"]),
            ("\n", &[""]),
            ("a\u{2028}b\u{b}", &["a", "b"]),
            ("\r\ra", &["", "", "a"]),
        ];
        for (text, want) in cases {
            assert_eq!(lines(text, false).collect::<Vec<_>>(), want, "{text:?}");
            assert_eq!(lines(text, true).collect::<String>(), text);
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (float, want) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number(&Value::from(float)).unwrap(), want);
        }
    }
}
