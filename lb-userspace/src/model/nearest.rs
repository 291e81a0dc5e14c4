//! "Did you mean ...?": the nearest of the names that exist.

/// The candidate that `word` was probably meant to be: the one with the smallest edit distance, if
/// that is at most a third of the longer word (at least 1), so that a wild guess is never offered.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
            let limit = (word.chars().count().max(candidate.chars().count()) / 3).max(1);
            (distance <= limit).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_is_near_and_nothing_else() {
        let names = ["mysql-read", "mysql-write", "dns"];
        assert_eq!(nearest("mysql-raed", names), Some("mysql-read"));
        assert_eq!(nearest("MYSQL-WRITE", names), Some("mysql-write"));
        assert_eq!(nearest("dsn", names), Some("dns"));
        assert_eq!(nearest("web", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
