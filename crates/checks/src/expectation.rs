//! What the answer to a question should be: `>= 1`, `= 42`, `between 1 and 9`, `matches ^v[0-9]+$`.

use std::fmt;
use std::str::FromStr;

/// A condition on one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// Numbers are compared as numbers; `=` and `<>` also compare texts.
    Compare(Operator, String),
    /// Both ends included.
    Between(String, String),
    /// A regular expression of PostgreSQL's, matched anywhere in the text.
    Matches(String),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `>=`, between numbers only.
    AtLeast,
    /// `<=`, between numbers only.
    AtMost,
    /// `>`, between numbers only.
    More,
    /// `<`, between numbers only.
    Less,
    /// `=`, between numbers where both are, else between texts.
    Equal,
    /// `<>` or `!=`, between numbers where both are, else between texts.
    Unequal,
}

const OPERATORS: [(&str, Operator); 7] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("<>", Operator::Unequal),
    ("!=", Operator::Unequal),
    (">", Operator::More),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

/// Why a text is no expectation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no expectation: write >= 1, > 1, <= 1, < 1, = 42, <> 42, between 1 and 9, or matches PATTERN")]
pub struct ExpectationError(String);

impl FromStr for Expectation {
    type Err = ExpectationError;
    fn from_str(text: &str) -> Result<Self, ExpectationError> {
        let wrong = || ExpectationError(text.to_owned());
        let text = text.trim();
        if let Some(pattern) = text.strip_prefix("matches ").map(str::trim).filter(|pattern| !pattern.is_empty()) {
            return Ok(Self::Matches(pattern.to_owned()));
        }
        if let Some(ends) = text.strip_prefix("between ") {
            let (low, high) = ends.split_once(" and ").ok_or_else(wrong)?;
            let (low, high) = (low.trim(), high.trim());
            let is_range = Number::parse(low).zip(Number::parse(high)).is_some_and(|(low, high)| low <= high);
            return if is_range { Ok(Self::Between(low.to_owned(), high.to_owned())) } else { Err(wrong()) };
        }
        let (sign, operator) = OPERATORS.into_iter().find(|(sign, _)| text.starts_with(sign)).ok_or_else(wrong)?;
        let operand = text[sign.len()..].trim();
        let is_text_enough = matches!(operator, Operator::Equal | Operator::Unequal);
        if operand.is_empty() || (!is_text_enough && Number::parse(operand).is_none()) {
            return Err(wrong());
        }
        Ok(Self::Compare(operator, operand.to_owned()))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare(operator, operand) => {
                let sign = OPERATORS.iter().find(|(_, o)| o == operator).map_or("", |(sign, _)| sign);
                write!(f, "{sign} {operand}")
            }
            Self::Between(low, high) => write!(f, "between {low} and {high}"),
            Self::Matches(pattern) => write!(f, "matches {pattern}"),
        }
    }
}

impl Expectation {
    /// Whether this value meets it; `None` for a pattern, which only PostgreSQL can match.
    pub fn is_met(&self, value: &str) -> Option<bool> {
        let number = Number::parse(value);
        Some(match self {
            Self::Compare(operator, operand) => {
                let order = number.zip(Number::parse(operand)).and_then(|(value, operand)| value.partial_cmp(&operand));
                match operator {
                    Operator::Equal => order.map_or(value == operand, |order| order.is_eq()),
                    Operator::Unequal => order.map_or(value != operand, |order| order.is_ne()),
                    Operator::AtLeast => order.is_some_and(|order| order.is_ge()),
                    Operator::AtMost => order.is_some_and(|order| order.is_le()),
                    Operator::More => order.is_some_and(|order| order.is_gt()),
                    Operator::Less => order.is_some_and(|order| order.is_lt()),
                }
            }
            Self::Between(low, high) => {
                let ends = Number::parse(low).zip(Number::parse(high));
                number.zip(ends).is_some_and(|(value, (low, high))| low <= value && value <= high)
            }
            Self::Matches(_) => return None,
        })
    }
}

/// Counts are whole and exact; other numbers are as exact as a double.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let real = || text.parse().ok().filter(|real: &f64| real.is_finite()).map(Self::Real);
        text.parse().map(Self::Whole).ok().or_else(real)
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.partial_cmp(other),
            _ => self.real().partial_cmp(&other.real()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expectation: &str, value: &str) -> bool {
        expectation.parse::<Expectation>().unwrap().is_met(value).unwrap()
    }

    #[test]
    fn values_are_compared_as_what_they_are() {
        assert!(met(">= 1", "1") && !met(">= 1", "0") && met("> 9", "10"), "as numbers, not as texts");
        assert!(met("= 42", "42.0") && !met("= 42", "43") && met("= blue", "blue") && met("<> blue", "red"));
        assert!(met("between 1 and 9", "9") && !met("between 1 and 9", "10") && !met("between 1 and 9", "many"));
        assert!(met("= 9007199254740993", "9007199254740993") && !met("= 9007199254740993", "9007199254740992"));
        assert!(!met(">= 1", "many"), "what is no number is not at least one");
    }

    #[test]
    fn what_is_written_reads_back_and_nonsense_is_refused() {
        for text in [">= 1", "<= 2.5", "> 0", "< 7", "= blue", "<> 42", "between 1 and 9", "matches ^v[0-9]+$"] {
            assert_eq!(text.parse::<Expectation>().unwrap().to_string(), text);
        }
        for text in ["", "1", ">=", ">= many", "between 1", "between 9 and 1", "matches ", "about 7"] {
            assert!(text.parse::<Expectation>().is_err(), "{text:?}");
        }
    }
}
