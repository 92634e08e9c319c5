//! Conditions in words.

use super::document::Condition;
use super::operator::{Comparison, Order, Quantifier};

/// A condition as a clause, such as `wardfs:Unit is app.service`.
pub(super) fn condition(condition: &Condition) -> String {
    let Condition {
        operator,
        key,
        values,
    } = condition;
    let key = key.name();
    let values: Vec<&str> = values.iter().map(|v| v.value.as_str()).collect();
    let values = values.join(" or ");
    let not = if operator.negated { "not " } else { "" };
    let text = match operator.comparison {
        Comparison::Equals | Comparison::Bool | Comparison::Binary => format!("{key} is {not}{values}"),
        Comparison::Number(order) | Comparison::Date(order) => {
            let than = match order {
                Order::Equal => "",
                Order::Less => "less than ",
                Order::LessOrEqual => "at most ",
                Order::Greater => "more than ",
                Order::GreaterOrEqual => "at least ",
            };
            format!("{key} is {not}{than}{values}")
        }
        Comparison::Ip => format!("{key} is {not}in {values}"),
        Comparison::EqualsIgnoreCase => format!("{key} is {not}{values} (in any case)"),
        Comparison::Like | Comparison::Arn => format!("{key} is {not}like {values}"),
        Comparison::Null => match values.to_ascii_lowercase().as_str() {
            "true" => format!("{key} is absent"),
            "false" => format!("{key} is present"),
            _ => format!("{key} is present or absent"),
        },
    };
    let text = match operator.quantifier {
        Some(Quantifier::All) => format!("every {text}"),
        Some(Quantifier::Any) => format!("any {text}"),
        None => text,
    };
    match operator.if_exists && operator.quantifier != Some(Quantifier::Any) {
        true => format!("{text} (or absent)"),
        false => text,
    }
}
