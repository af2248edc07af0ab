//! MQTT 3.1.1.

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Outgoing, Packet, Publish, QoS, SubscribeFilter, SubscribeReasonCode,
};

use super::{Beside, Broken, Delivery, Full, Heard, Options, Received, Verdict};
use crate::security::Security;

pub(super) type Client = AsyncClient;
pub(super) type Events = EventLoop;

/// The largest packet that is sent, in bytes: brokers of this version do not say what they take.
const LARGEST: usize = 256 << 20;

pub(super) fn connect(security: &Security, options: &Options) -> (Client, Events) {
    let address = &security.address;
    let mut with = MqttOptions::new(&options.client_id, &address.host, address.port);
    if let Some(transport) = super::encrypted(security) {
        with.set_transport(transport);
    }
    if let Some((user, password)) = &security.credentials {
        with.set_credentials(user, password);
    }
    with.set_keep_alive(options.keep_alive);
    with.set_clean_session(options.session.is_none());
    with.set_inflight(options.inflight);
    with.set_max_packet_size(options.largest as usize, LARGEST);
    if let Some((topic, payload)) = &options.will {
        with.set_last_will(LastWill::new(
            topic,
            payload.clone(),
            QoS::AtLeastOnce,
            true,
        ));
    }
    AsyncClient::new(with, options.requests)
}

pub(super) fn publish(
    client: &Client,
    topic: &str,
    retain: bool,
    payload: Vec<u8>,
) -> Result<(), Full> {
    let sent = client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
    sent.map_err(|_| Full)
}

pub(super) fn subscribe(
    client: &Client,
    filters: &[String],
    delivery: Delivery,
) -> Result<(), Full> {
    let qos = match delivery {
        Delivery::AtMostOnce => QoS::AtMostOnce,
        Delivery::AtLeastOnce => QoS::AtLeastOnce,
    };
    let filters = filters
        .iter()
        .map(|filter| SubscribeFilter::new(filter.clone(), qos));
    client.try_subscribe_many(filters).map_err(|_| Full)
}

pub(super) async fn next(events: &mut Events) -> Result<Heard, Broken> {
    let event = events.poll().await.map_err(broken)?;
    Ok(match event {
        Event::Incoming(Packet::ConnAck(_)) => Heard::Accepted(None),
        Event::Incoming(Packet::Publish(publish)) => Heard::Message(received(publish)),
        // A broker that refuses a message of this version says nothing of it, or hangs up.
        Event::Incoming(Packet::PubAck(ack)) => Heard::Answered(ack.pkid, Verdict::Taken),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refusal = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => None,
                SubscribeReasonCode::Failure => Some("Failure".to_owned()),
            };
            Heard::Subscribed(ack.return_codes.into_iter().map(refusal).collect())
        }
        Event::Outgoing(Outgoing::Publish(pkid)) => Heard::Sent(pkid),
        Event::Outgoing(Outgoing::Disconnect) => Heard::Goodbye,
        _ => Heard::Other,
    })
}

fn received(publish: Publish) -> Received {
    Received {
        topic: publish.topic,
        payload: publish.payload.to_vec(),
        beside: Beside::default(),
    }
}

fn broken(e: ConnectionError) -> Broken {
    match e {
        ConnectionError::ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion) => {
            Broken::Version
        }
        ConnectionError::ConnectionRefused(code) => Broken::Refused(format!("{code:?}")),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => Broken::Silent,
        ConnectionError::MqttState(e) => Broken::Ended(e.to_string()),
        e @ ConnectionError::NotConnAck(_) => Broken::Ended(e.to_string()),
        ConnectionError::Io(e) => super::io(&e),
        e => Broken::None(e.to_string()),
    }
}
