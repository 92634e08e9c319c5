//! `put --generate`: a random password, with the choices of AWS Secrets Manager's GetRandomPassword. It is made in
//! locked memory and never shown.

use clap::Args;

use super::World;
use crate::id::SecretName;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;

/// The length without `--length`, as AWS has it.
const USUAL_LENGTH: u16 = 32;
const LOWERCASE: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPERCASE: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NUMBERS: &[u8] = b"0123456789";
const PUNCTUATION: &[u8] = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// What may be typed about a password.
#[derive(Args, Debug, Default)]
pub struct Typed {
    /// Make a random password instead of reading a value; it is not shown
    #[arg(long, conflicts_with = "value_file")]
    pub generate: bool,
    /// Its characters (1 to 4096; default: 32)
    #[arg(long, value_name = "N", requires = "generate", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub length: Option<u16>,
    /// None of these characters
    #[arg(long, value_name = "CHARS", requires = "generate", allow_hyphen_values = true)]
    pub exclude_characters: Option<String>,
    /// No lower-case letters
    #[arg(long, requires = "generate")]
    pub exclude_lowercase: bool,
    /// No upper-case letters
    #[arg(long, requires = "generate")]
    pub exclude_uppercase: bool,
    /// No digits
    #[arg(long, requires = "generate")]
    pub exclude_numbers: bool,
    /// No punctuation
    #[arg(long, requires = "generate")]
    pub exclude_punctuation: bool,
    /// Also spaces
    #[arg(long, requires = "generate")]
    pub include_space: bool,
    /// Not necessarily one character of each kind
    #[arg(long, requires = "generate")]
    pub no_require_each_type: bool,
}

/// How a password is made. It can be: there are characters, and they fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    length: u16,
    /// Every character that may come, once.
    alphabet: Vec<u8>,
    /// Of each of these at least one has to come.
    required: Vec<Vec<u8>>,
}

impl Recipe {
    /// The recipe that was typed.
    ///
    /// # Errors
    /// [`Exit::Usage`] for one that no password can meet.
    pub fn new(typed: &Typed, name: &SecretName) -> Result<Recipe, Problem> {
        let wrong = |why: &str, next: &str| {
            Problem::new(
                Exit::Usage,
                format!("{name} was not stored: no such password can be made"),
                why,
            )
            .next(next)
        };
        let excluded = typed.exclude_characters.as_deref().unwrap_or_default().as_bytes();
        let kinds = [
            (LOWERCASE, typed.exclude_lowercase),
            (UPPERCASE, typed.exclude_uppercase),
            (NUMBERS, typed.exclude_numbers),
            (PUNCTUATION, typed.exclude_punctuation),
        ];
        let kinds: Vec<Vec<u8>> = kinds
            .into_iter()
            .filter(|(_, excluded)| !excluded)
            .map(|(kind, _)| kind.iter().copied().filter(|c| !excluded.contains(c)).collect())
            .collect();
        let mut alphabet = kinds.concat();
        if typed.include_space && !excluded.contains(&b' ') {
            alphabet.push(b' ');
        }
        if alphabet.is_empty() {
            return Err(wrong("every character is excluded", "exclude less"));
        }
        let length = typed.length.unwrap_or(USUAL_LENGTH);
        let required = if typed.no_require_each_type {
            Vec::new()
        } else {
            kinds
        };
        if required.iter().any(Vec::is_empty) {
            return Err(wrong(
                "--exclude-characters leaves nothing of a kind of which one character is required",
                "exclude that kind by its own flag, or say --no-require-each-type",
            ));
        }
        if required.len() > usize::from(length) {
            return Err(wrong(
                "it is shorter than the kinds of characters that are required",
                "give a larger --length, or say --no-require-each-type",
            ));
        }
        Ok(Recipe {
            length,
            alphabet,
            required,
        })
    }

    /// Makes a password: each that meets the recipe is as likely as any other.
    ///
    /// # Errors
    /// [`Exit::Failed`] without locked memory or randomness.
    pub fn password(&self, world: &dyn World) -> Result<SecretBytes, Problem> {
        let mut password = world.memory(usize::from(self.length))?;
        let mut dice = Dice {
            bytes: world.memory(256)?,
            used: 256,
        };
        loop {
            for place in password.expose_mut() {
                *place = self.alphabet[dice.roll(self.alphabet.len())?];
            }
            let has = |kind: &Vec<u8>| password.expose().iter().any(|c| kind.contains(c));
            if self.required.iter().all(has) {
                return Ok(password);
            }
        }
    }
}

/// Random numbers, drawn from the system by the page.
struct Dice {
    bytes: SecretBytes,
    used: usize,
}

impl Dice {
    /// A number below `sides`, which is at most 256. Bytes that would favour the low ones are thrown away.
    fn roll(&mut self, sides: usize) -> Result<usize, Problem> {
        loop {
            if self.used == self.bytes.len() {
                getrandom::fill(self.bytes.expose_mut()).map_err(|e| {
                    Problem::new(
                        Exit::Failed,
                        "no password was made: the system gives no randomness",
                        e,
                    )
                    .next("try again when the machine has started completely")
                })?;
                self.used = 0;
            }
            let byte = usize::from(self.bytes.expose()[self.used]);
            self.used += 1;
            if byte < 256 - 256 % sides {
                return Ok(byte % sides);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::glue::Machine;
    use super::*;

    fn name() -> SecretName {
        "app/generated".parse().unwrap()
    }

    fn passwords(typed: &Typed, count: usize) -> Vec<Vec<u8>> {
        let recipe = Recipe::new(typed, &name()).unwrap();
        (0..count)
            .map(|_| recipe.password(&Machine).unwrap().expose().to_vec())
            .collect()
    }

    #[test]
    fn a_password_has_one_of_each_kind_and_the_usual_length() {
        for password in passwords(&Typed::default(), 500) {
            assert_eq!(password.len(), 32);
            for kind in [LOWERCASE, UPPERCASE, NUMBERS, PUNCTUATION] {
                assert!(password.iter().any(|c| kind.contains(c)));
            }
            assert!(!password.contains(&b' '));
        }
        let shortest = Typed {
            length: Some(4),
            ..Typed::default()
        };
        assert!(passwords(&shortest, 100).iter().all(|p| p.len() == 4));
    }

    #[test]
    fn what_is_excluded_never_comes() {
        let typed = Typed {
            length: Some(4096),
            exclude_characters: Some("abc\"'\\/@".into()),
            exclude_uppercase: true,
            exclude_numbers: true,
            include_space: true,
            ..Typed::default()
        };
        let password = passwords(&typed, 1).remove(0);
        assert!(password.contains(&b' ') && password.contains(&b'z'));
        let excluded = |c: &u8| b"abc\"'\\/@".contains(c) || c.is_ascii_uppercase() || c.is_ascii_digit();
        assert!(!password.iter().any(excluded));
    }

    /// Pearson's test over 256,000 characters of 62: a bias of the kind that `% 62` makes gives thousands.
    #[test]
    fn every_character_is_as_likely_as_any_other() {
        let typed = Typed {
            length: Some(4000),
            exclude_punctuation: true,
            no_require_each_type: true,
            ..Typed::default()
        };
        let mut counts = [0f64; 256];
        for password in passwords(&typed, 64) {
            password.iter().for_each(|c| counts[usize::from(*c)] += 1.0);
        }
        let expected = 256_000.0 / 62.0;
        let seen: Vec<f64> = counts.into_iter().filter(|c| *c > 0.0).collect();
        assert_eq!(seen.len(), 62);
        let chi: f64 = seen.iter().map(|c| (c - expected).powi(2) / expected).sum();
        // 61 degrees of freedom: above 160 once in 10^10.
        assert!(chi < 160.0, "{chi}");
    }

    #[test]
    fn no_two_are_alike() {
        let all = passwords(&Typed::default(), 1000);
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let exclude = |chars: &str| Typed {
            exclude_characters: Some(chars.into()),
            ..Typed::default()
        };
        let nothing = Typed {
            exclude_lowercase: true,
            exclude_uppercase: true,
            exclude_numbers: true,
            exclude_punctuation: true,
            ..Typed::default()
        };
        let short = Typed {
            length: Some(3),
            ..Typed::default()
        };
        for typed in [exclude("0123456789"), nothing, short] {
            assert_eq!(Recipe::new(&typed, &name()).unwrap_err().exit, Exit::Usage);
        }
        let digits_gone = Typed {
            no_require_each_type: true,
            ..exclude("0123456789")
        };
        assert!(Recipe::new(&digits_gone, &name()).is_ok());
    }
}
