//! Points in time as the wire writes them.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00.000Z; on the wire exactly 24 characters, `YYYY-MM-DDTHH:MM:SS.sssZ`.
///
/// Covers the years 0000 to 9999 of the proleptic Gregorian calendar; leap seconds do not exist. Each value has exactly
/// one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not `YYYY-MM-DDTHH:MM:SS.sssZ`, or names a day or hour that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a timestamp: YYYY-MM-DDTHH:MM:SS.sssZ in UTC is needed, exactly 24 characters")]
pub struct InvalidTimestamp;

const MIN: i64 = -62_167_219_200_000;
const MAX: i64 = 253_402_300_799_999;
const DAY: i64 = 86_400_000;

impl Timestamp {
    /// From milliseconds since the Unix epoch, held within the years 0000 to 9999.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(if millis < MIN {
            MIN
        } else if millis > MAX {
            MAX
        } else {
            millis
        })
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Later by `millis` (earlier, if negative), held within the years 0000 to 9999.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self::from_unix_millis(self.0.saturating_add(millis))
    }

    /// `self - earlier`, in milliseconds.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// Reads the 24 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let bytes: &[u8; 24] = text.as_bytes().try_into().map_err(|_| InvalidTimestamp)?;
        let punctuation = [
            (4, b'-'),
            (7, b'-'),
            (10, b'T'),
            (13, b':'),
            (16, b':'),
            (19, b'.'),
            (23, b'Z'),
        ];
        if punctuation.iter().any(|&(at, mark)| bytes[at] != mark) {
            return Err(InvalidTimestamp);
        }
        let number = |from: usize, to: usize| -> Result<i64, InvalidTimestamp> {
            bytes[from..to].iter().try_fold(0, |sum, digit| match digit {
                b'0'..=b'9' => Ok(sum * 10 + i64::from(digit - b'0')),
                _ => Err(InvalidTimestamp),
            })
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second, millis) =
            (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
        if !(1..=12).contains(&month)
            || !(1..=days_in_month(year, month)).contains(&day)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return Err(InvalidTimestamp);
        }
        let seconds = (hour * 60 + minute) * 60 + second;
        Ok(Self(
            days_from_civil(year, month, day) * DAY + seconds * 1_000 + millis,
        ))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, millis) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        let (seconds, millis) = (millis / 1_000, millis % 1_000);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        // By hand: every message has one, and the formatter takes ten times as long.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |from: usize, to: usize, mut number: i64| {
            for digit in text[from..to].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        };
        put(0, 4, year);
        put(5, 7, month);
        put(8, 10, day);
        put(11, 13, hour);
        put(14, 16, minute);
        put(17, 19, second);
        put(20, 23, millis);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_points() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:34:56.789Z", 951_827_696_789),
            ("2026-11-22T14:10:00.001Z", 1_795_356_600_001),
            ("0000-01-01T00:00:00.000Z", MIN),
            ("9999-12-31T23:59:59.999Z", MAX),
        ] {
            assert_eq!(Timestamp::parse(text), Ok(Timestamp(millis)));
            assert_eq!(Timestamp(millis).to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "2026-11-22T14:10:00Z",
            "2026-11-22T14:10:00.000+00:00",
            "2026-11-22 14:10:00.000Z",
            "2026-11-22T14:10:00.000z",
            "2026-02-29T00:00:00.000Z",
            "1900-02-29T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-00-01T00:00:00.000Z",
            "2026-04-31T00:00:00.000Z",
            "2026-04-00T00:00:00.000Z",
            "2026-01-01T24:00:00.000Z",
            "2026-01-01T00:60:00.000Z",
            "2026-06-30T23:59:60.000Z",
            "+026-01-01T00:00:00.000Z",
            "2026-01-01T00:00:00.00éZ",
        ] {
            assert_eq!(Timestamp::parse(bad), Err(InvalidTimestamp), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_millisecond_has_one_spelling(millis in MIN..=MAX) {
            let text = Timestamp(millis).to_string();
            prop_assert_eq!(text.len(), 24);
            prop_assert_eq!(Timestamp::parse(&text), Ok(Timestamp(millis)));
        }

        #[test]
        fn what_parses_prints_as_it_was(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{3}Z") {
            if let Ok(time) = Timestamp::parse(&text) {
                prop_assert_eq!(time.to_string(), text);
            }
        }
    }
}
