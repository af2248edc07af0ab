//! Topics (docs/architecture.md has the table).

/// The first level of every topic.
pub const PREFIX: &str = "kinglet";

/// Whether this may be a level of a topic: 1 to 64 of a-z, 0-9 and `-`.
pub fn is_name(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&s.len()) && s.bytes().all(allowed)
}

/// Whether this may be the id of a command: 1 to 64 of letters, digits, `-` and `_`.
pub fn is_id(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=64).contains(&s.len()) && s.bytes().all(allowed)
}

/// Whether a client may publish on this topic: no wildcards, no NUL, not the broker's own.
pub fn is_publishable(s: &str) -> bool {
    (1..=256).contains(&s.len()) && !s.starts_with('$') && !s.contains(['+', '#', '\0'])
}

/// The topics of one device.
#[derive(Debug, Clone)]
pub struct Topics {
    device: String,
}

impl Topics {
    /// The topics of the device with this name.
    pub fn new(device: &str) -> Self {
        Topics {
            device: device.to_owned(),
        }
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Retained: whether it is there, and what it is.
    pub fn status(&self) -> String {
        self.of("status")
    }

    /// Events.
    pub fn event(&self) -> String {
        self.of("event")
    }

    /// A picture.
    pub fn image(&self, id: &str) -> String {
        self.of(&format!("image/{id}"))
    }

    /// Retained: the newest picture of a watch.
    pub fn latest(&self, watch: &str) -> String {
        self.of(&format!("latest/{watch}"))
    }

    /// Retained: an output that a watch has set.
    pub fn output(&self, name: &str) -> String {
        self.of(&format!("output/{name}"))
    }

    /// The result of a command without a response topic.
    pub fn result(&self, id: &str) -> String {
        self.of(&format!("result/{id}"))
    }

    /// The command of this name.
    pub fn command(&self, name: &str) -> String {
        self.of(&format!("command/{name}"))
    }

    /// Retained: the configuration that somebody wants this device to have.
    pub fn desired(&self) -> String {
        self.of("shadow/desired")
    }

    /// Retained: the configuration that it has.
    pub fn reported(&self) -> String {
        self.of("shadow/reported")
    }

    /// What the device subscribes to: its own commands and those of its groups, and its shadow.
    pub fn subscriptions(&self, groups: &[String]) -> Vec<String> {
        let groups = groups.iter().map(|g| group_commands(g));
        [self.command("+"), self.desired(), self.job()]
            .into_iter()
            .chain(groups)
            .collect()
    }

    /// Retained: the model that the device is to install.
    pub fn job(&self) -> String {
        self.of("job")
    }

    /// How far a job is.
    pub fn job_progress(&self, id: &str) -> String {
        self.of(&format!("job/{id}"))
    }

    fn of(&self, rest: &str) -> String {
        format!("{PREFIX}/{}/{rest}", self.device)
    }
}

/// All commands to a group.
pub fn group_commands(group: &str) -> String {
    format!("{PREFIX}/group/{group}/command/+")
}

/// The group that a topic, or a subscription to its commands, is of.
pub fn group_of(topic: &str) -> Option<&str> {
    let rest = topic.strip_prefix(PREFIX)?.strip_prefix("/group/")?;
    rest.split_once("/command/").map(|(group, _)| group)
}

/// The name of the command that a topic carries.
pub fn command_name(topic: &str) -> Option<&str> {
    let rest = topic.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let (_, name) = rest.split_once("/command/")?;
    is_name(name).then_some(name)
}
