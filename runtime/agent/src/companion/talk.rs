//! What the agent says to its companion and makes of what it hears. It knows no line and no clock: bytes and the
//! time go in, bytes and news come out.

use kinglet_link::{
    Counters, Entry, Fault, LONGEST_FRAME, Link, Millis, Report, Settings, ToBoard, ToCompanion,
    VERSION, Wake,
};

use super::CompanionState;

/// Messages that wait.
const QUEUE: usize = 8;
/// How often the agent shows that it lives: often enough for the shortest patience, of a second.
const SIGN: Millis = 400;
/// Reports that may be missing before the companion counts as silent.
const MISSING_REPORTS: Millis = 3;
/// It is never silent sooner than this.
const SILENCE: Millis = 3000;

/// What there is to know.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    Hello { firmware: u32 },
    Woken(Wake),
    Report(Report),
    Entry(Entry),
}

/// Whether it follows the settings.
#[derive(Debug, PartialEq)]
enum Settled {
    Asked,
    Yes,
    No(Fault),
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Talk {
    link: Link<ToCompanion, ToBoard, QUEUE>,
    settings: Settings,
    settled: Settled,
    begun: Millis,
    sign: Millis,
    /// The number of the next entry of its log.
    log: u32,
    /// How often the companion has begun.
    beginnings: u32,
    inputs: Option<u8>,
}

impl Talk {
    /// Nothing is said yet. `session` tells this run from others.
    pub(super) fn new(settings: Settings, session: u16) -> Self {
        Talk {
            link: Link::new(session),
            settings,
            settled: Settled::Asked,
            begun: 0,
            sign: 0,
            log: 0,
            beginnings: 0,
            inputs: None,
        }
    }

    /// There is a line, at whose end somebody may have been for long.
    pub(super) fn begin(&mut self, now: Millis) {
        (self.begun, self.sign) = (now, now);
        self.settled = Settled::Asked;
        self.say(ToCompanion::Hello);
    }

    /// Takes a byte.
    pub(super) fn receive(&mut self, byte: u8, now: Millis) -> Option<News> {
        match self.link.receive(byte, now)? {
            ToBoard::Hello(hello) => {
                self.inputs = Some(hello.inputs);
                // One that begins anew begins a new log.
                let beginnings = self.link.counters().beginnings;
                if beginnings != self.beginnings {
                    (self.beginnings, self.log) = (beginnings, 0);
                }
                self.settled = Settled::Asked;
                self.say(ToCompanion::Settings(self.settings.clone()));
                let from = self.log;
                self.say(ToCompanion::ReadLog { from });
                let firmware = hello.firmware;
                Some(News::Hello { firmware })
            }
            ToBoard::Settings(answer) => {
                self.settled = answer.map_or_else(Settled::No, |()| Settled::Yes);
                None
            }
            ToBoard::Wake(wake) => Some(News::Woken(wake)),
            ToBoard::Report(report) => Some(News::Report(report)),
            ToBoard::Entry(entry) if entry.number >= self.log => {
                self.log = entry.number.saturating_add(1);
                Some(News::Entry(entry))
            }
            // Two hellos: it was asked twice.
            ToBoard::Entry(_) => None,
            ToBoard::LogEnd { .. } => None,
            // The agent brings no firmware.
            ToBoard::Update(_) => None,
        }
    }

    /// Does what is due. Without a sign of life of the agent (`alive`) the companion hears none.
    pub(super) fn poll(&mut self, now: Millis, alive: bool) {
        if now >= self.sign && alive {
            self.sign = now + SIGN;
            // What waits is a sign of life, too.
            if self.link.waiting() == 0 {
                self.say(ToCompanion::Pet);
            }
        }
    }

    /// The agent ends: no sign of life is to be expected.
    pub(super) fn leave(&mut self) {
        self.say(ToCompanion::Sleep);
    }

    /// Whether the companion has heard everything.
    pub(super) fn has_said_all(&self) -> bool {
        self.link.waiting() == 0
    }

    /// The next frame for the line.
    pub(super) fn transmit<'o>(
        &mut self,
        now: Millis,
        out: &'o mut [u8; LONGEST_FRAME],
    ) -> Option<&'o [u8]> {
        self.link.transmit(now, out)
    }

    /// When there is something to do, if nothing arrives before.
    pub(super) fn due(&self) -> Option<Millis> {
        Some(self.link.due().map_or(self.sign, |due| due.min(self.sign)))
    }

    /// Whether all is well, and if not, why.
    pub(super) fn state(&self, now: Millis) -> (CompanionState, Option<String>) {
        if let Some(version) = self.link.other_version() {
            let error =
                format!("it speaks version {version} of the protocol; {VERSION} is expected");
            return (CompanionState::Strange, Some(error));
        }
        let patience = Millis::from(self.settings.report) * 1000 * MISSING_REPORTS;
        let heard = self.link.heard().map_or(self.begun, |h| h.max(self.begun));
        let silence = now.saturating_sub(heard);
        // Who was never heard on this line should have answered at once.
        let is_new = heard == self.begun;
        if silence > patience.max(SILENCE) || is_new && silence > SILENCE {
            let error = "nothing that makes sense is heard".to_owned();
            return (CompanionState::Silent, Some(error));
        }
        match &self.settled {
            Settled::Yes => (CompanionState::Connected, None),
            Settled::Asked => (CompanionState::Silent, None),
            Settled::No(fault) => {
                let error = format!("it refuses its settings: {}", words(*fault, self.inputs));
                (CompanionState::Strange, Some(error))
            }
        }
    }

    /// What has happened on the line.
    pub(super) fn counters(&self) -> Counters {
        self.link.counters()
    }

    fn say(&mut self, message: ToCompanion) {
        if self.link.send(message).is_err() {
            tracing::warn!("companion: too many messages wait for it");
        }
    }
}

/// A fault in words.
fn words(fault: Fault, inputs: Option<u8>) -> String {
    match fault {
        Fault::Inputs => format!("it has {} inputs", inputs.unwrap_or(0)),
        Fault::Count(input) => format!("input {input} cannot count so many"),
        Fault::Light(input) => {
            format!("input {input} has darker_than, and there is no light sensor")
        }
        Fault::Watchdog => "it cannot cut the board's power".to_owned(),
        Fault::Report => "it cannot report so rarely".to_owned(),
    }
}
