//! What is wrong with a configuration: every fault, with its place, its field and the remedy.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in the file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl At {
    /// Pairs a line with a column.
    #[must_use]
    pub fn new(line: u64, column: u64) -> Self {
        Self { line, column }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` where the whole file is meant.
    pub at: Option<At>,
    /// The field's path such as `peers[0].cluster`; empty for the file as such.
    pub field: String,
    /// What is wrong and, after a semicolon, what to do.
    pub text: String,
}

impl Problem {
    /// Puts a fault together.
    pub fn new(at: Option<At>, field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { at, field: field.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}:{}: ", at.line, at.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.text)
    }
}

/// All faults of one file, in the order of their places; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Errors {
    /// Sorts by place, faults of the whole file first.
    #[must_use]
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.at);
        Self { file: file.to_owned(), problems }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The faults.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let space = if problem.at.is_some() { "" } else { " " };
            write!(f, "{}:{space}{problem}", self.file.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
