//! `kinglet fleet`: many devices, through their broker. It keeps nothing that the broker does not.
//!
//! # Layout
//! - [`cli`]: its command line.
//! - [`broker`]: the connection; [`roster`]: the devices that the broker knows.
//! - [`ask`]: a command to a device or a group, and who answers.
//! - One file a command; [`see`] has `set` too, [`picture`] both that get pictures.
//! - [`paper`]: keys and files that are never overwritten; [`text`]: what devices say, fit for a terminal.

mod ask;
mod broker;
pub(crate) mod cli;
mod enrol;
mod key;
mod ls;
mod paper;
mod picture;
mod rollback;
mod rollout;
mod roster;
mod see;
mod sign;
mod text;
mod watch;

use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

use broker::Broker;
use cli::{FleetArgs, FleetCommand};

/// Runs the command that was asked for.
pub(crate) fn run(cli: &Cli, args: &FleetArgs) -> Outcome {
    match &args.command {
        FleetCommand::Enrol(enrol) => return enrol::run(cli, &args.broker, enrol),
        FleetCommand::Key(key) => return key::run(cli, key),
        FleetCommand::Sign(sign) => return sign::run(cli, sign),
        _ => {}
    }
    // Signed before the broker is asked for anything; an order that is only written needs none.
    let order = match &args.command {
        FleetCommand::Rollback(rollback) => match rollback.order(cli)? {
            Some(order) => Some(order),
            None => return Ok(()),
        },
        _ => None,
    };
    let Some(config) = args.broker.config() else {
        let reason = "which broker? --broker mqtts://HOST:PORT, or KINGLET_BROKER, names one";
        return Err(Failure::new(reason));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut broker = Broker::connect(&config).await?;
        let done = match &args.command {
            FleetCommand::Ls => ls::run(cli, &mut broker).await,
            FleetCommand::Watch(watch) => watch::run(cli, &mut broker, watch).await,
            FleetCommand::See(see) => see::run(cli, &mut broker, see).await,
            FleetCommand::Set(set) => see::set(cli, &mut broker, set).await,
            FleetCommand::Draw(draw) => picture::draw(cli, &mut broker, draw).await,
            FleetCommand::Snapshot(args) => picture::snapshot(cli, &mut broker, args).await,
            FleetCommand::Rollout(args) => rollout::run(cli, &mut broker, args).await,
            FleetCommand::Rollback(args) => match order {
                Some(order) => rollback::run(cli, &mut broker, args, order).await,
                None => Ok(()),
            },
            FleetCommand::Enrol(_) | FleetCommand::Key(_) | FleetCommand::Sign(_) => Ok(()),
        };
        broker.leave().await;
        done
    })
}
