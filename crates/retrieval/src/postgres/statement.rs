//! A statement with its values: text that is the same for all values, so that none can become a part of it.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, GenericClient, Row};

use super::facts::{exact, plain, quoted, scalar};
use crate::filter::{Clause, Condition, Filter, Range};

/// A value that a statement is sent with.
type Bound = Box<dyn ToSql + Sync + Send>;

/// SQL under construction.
#[derive(Default)]
pub(super) struct Statement {
    pub(super) text: String,
    values: Vec<(Bound, Type)>,
}

impl Statement {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new() }
    }

    /// Appends text.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a value; gives what stands for it in the text.
    pub(super) fn bind(&mut self, value: impl ToSql + Sync + Send + 'static, kind: Type) -> String {
        self.values.push((Box::new(value), kind));
        format!("${}", self.values.len())
    }

    /// Likewise, numbers of a vector.
    pub(super) fn bind_numbers(&mut self, vector: &[f32]) -> String {
        self.bind(vector.to_vec(), Type::FLOAT4_ARRAY)
    }

    /// Likewise, an id.
    pub(super) fn bind_id(&mut self, id: &str) -> String {
        self.bind(id.as_bytes().to_vec(), Type::BYTEA)
    }

    /// Likewise, ids.
    pub(super) fn bind_ids<'a>(&mut self, ids: impl Iterator<Item = &'a str>) -> String {
        let ids: Vec<Vec<u8>> = ids.map(|id| id.as_bytes().to_vec()).collect();
        self.bind(ids, Type::BYTEA_ARRAY)
    }

    /// A condition on the column `facts` that holds where the filter matches.
    pub(super) fn filter(&mut self, filter: &Filter) -> String {
        let mut all: Vec<String> = filter.must.iter().map(|clause| self.clause(clause)).collect();
        all.extend(filter.must_not.iter().map(|clause| format!("NOT {}", self.clause(clause))));
        let any: Vec<String> = filter.should.iter().map(|clause| self.clause(clause)).collect();
        if !any.is_empty() {
            all.push(format!("({})", any.join(" OR ")));
        }
        if all.is_empty() { "true".to_owned() } else { format!("({})", all.join(" AND ")) }
    }

    fn clause(&mut self, clause: &Clause) -> String {
        match clause {
            Clause::Filter(filter) => self.filter(filter),
            Clause::Key { key, condition: Condition::Match(value) } => {
                let Some(wanted) = holding(key, value) else { return "false".to_owned() };
                let wanted = self.bind(wanted, Type::TEXT);
                format!("(facts @> {wanted}::jsonb)")
            }
            Clause::Key { key, condition: Condition::Any(values) } => {
                let wanted: Vec<String> = values.iter().filter_map(|value| holding(key, value)).collect();
                let wanted = self.bind(wanted, Type::TEXT_ARRAY);
                format!("(facts @> ANY ({wanted}::jsonb[]))")
            }
            Clause::Key { key, condition: Condition::Exists(wanted) } => {
                let key = self.bind(plain(key), Type::TEXT);
                format!("({}(facts ? {key}))", if *wanted { "" } else { "NOT " })
            }
            Clause::Key { key, condition: Condition::Range(range) } => self.range(key, range),
        }
    }

    /// One of the values is a number within the bounds. Values of other types compare as unknown, which holds nowhere.
    fn range(&mut self, key: &str, range: &Range) -> String {
        let bounds = [
            ("gt", ">", &range.gt),
            ("gte", ">=", &range.gte),
            ("lt", "<", &range.lt),
            ("lte", "<=", &range.lte),
        ];
        let (mut tests, mut numbers) = (Vec::new(), Vec::new());
        for (name, operator, bound) in bounds {
            if let Some(number) = bound {
                tests.push(format!("@ {operator} ${name}"));
                numbers.push(format!("\"{name}\":{}", exact(number)));
            }
        }
        // Bounds of which none is there hold for every number.
        let test = if tests.is_empty() { "@.type() == \"number\"".to_owned() } else { tests.join(" && ") };
        let key = self.bind(plain(key), Type::TEXT);
        let numbers = self.bind(format!("{{{}}}", numbers.join(",")), Type::TEXT);
        format!("coalesce(jsonb_path_exists(facts -> {key}, '$[*] ? ({test})', {numbers}::jsonb), false)")
    }

    /// Runs it; all rows.
    pub(super) async fn query(&self, client: &impl GenericClient) -> Result<Vec<Row>, Error> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            self.values.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect();
        client.query_typed(&self.text, &values).await
    }

    /// Runs it; the first row, if there is one.
    pub(super) async fn first(&self, client: &impl GenericClient) -> Result<Option<Row>, Error> {
        Ok(self.query(client).await?.into_iter().next())
    }

    /// Runs it; one row after the other.
    pub(super) async fn rows(&self, client: &Client) -> Result<tokio_postgres::RowStream, Error> {
        let values = self.values.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()));
        client.query_typed_raw(&self.text, values).await
    }
}

/// The facts that a payload has whose `key` leads to this value, among others; none where no payload can.
fn holding(key: &str, value: &serde_json::Value) -> Option<String> {
    Some(format!("{{{}:[{}]}}", quoted(key), scalar(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sql(filter: serde_json::Value) -> (String, usize) {
        let mut statement = Statement::default();
        let text = statement.filter(&Filter::try_from(filter).unwrap());
        (text, statement.values.len())
    }

    #[test]
    fn no_value_is_a_part_of_the_text() {
        let evil = "'); DROP TABLE points; --";
        let (text, values) = sql(json!({
            "must": [{"key": evil, "match": evil}, {"key": evil, "range": {"gt": 1}}],
            "must_not": [{"key": evil, "any": [evil]}, {"key": evil, "exists": false}],
        }));
        assert!(!text.contains("DROP") && values == 5, "{text}");
    }

    #[test]
    fn groups_are_joined_as_filters_are() {
        let exists = |key: &str| json!({"key": key, "exists": true});
        assert_eq!(sql(json!({})), ("true".to_owned(), 0));
        let (text, _) =
            sql(json!({"must": [exists("a")], "must_not": [exists("b")], "should": [exists("c"), {}]}));
        assert_eq!(text, "(((facts ? $1)) AND NOT ((facts ? $2)) AND (((facts ? $3)) OR true))");
        let (text, _) = sql(json!({"must": [{"key": "n", "range": {"gte": 1, "lt": 2.5}}]}));
        assert!(text.contains("? (@ >= $gte && @ < $lt)'"), "{text}");
    }
}
