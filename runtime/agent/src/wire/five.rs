//! MQTT 5.

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, Publish,
    PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};

use super::{Beside, Broken, Delivery, Full, Heard, Options, Received, Verdict};
use crate::security::Security;

pub(super) type Client = AsyncClient;
pub(super) type Events = EventLoop;

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
    with.set_clean_start(options.session.is_none());
    with.set_outgoing_inflight_upper_limit(options.inflight);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = options.session.map(|time| time.as_secs() as u32);
    // The broker then never sends more than we would take.
    properties.max_packet_size = Some(options.largest);
    with.set_connect_properties(properties);
    if let Some((topic, payload)) = &options.will {
        let will = LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, true, None);
        with.set_last_will(will);
    }
    AsyncClient::new(with, options.requests)
}

pub(super) fn publish(
    client: &Client,
    topic: &str,
    retain: bool,
    payload: Vec<u8>,
    beside: Beside,
) -> Result<(), Full> {
    let properties = PublishProperties {
        content_type: beside.content_type,
        correlation_data: beside.correlation.map(Into::into),
        response_topic: beside.response_topic,
        message_expiry_interval: beside.expiry,
        ..PublishProperties::default()
    };
    let sent =
        client.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
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
    let filters = filters.iter().map(|filter| Filter::new(filter, qos));
    client.try_subscribe_many(filters).map_err(|_| Full)
}

pub(super) async fn next(events: &mut Events) -> Result<Heard, Broken> {
    let event = events.poll().await.map_err(broken)?;
    Ok(match event {
        Event::Incoming(Packet::ConnAck(ack)) => {
            Heard::Accepted(ack.properties.and_then(|p| p.max_packet_size))
        }
        Event::Incoming(Packet::Publish(publish)) => Heard::Message(received(publish)),
        Event::Incoming(Packet::PubAck(ack)) => Heard::Answered(
            ack.pkid,
            match ack.reason {
                PubAckReason::Success => Verdict::Taken,
                PubAckReason::NoMatchingSubscribers => Verdict::Nobody,
                reason => Verdict::Refused(format!("{reason:?}")),
            },
        ),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refusal = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => None,
                code => Some(format!("{code:?}")),
            };
            Heard::Subscribed(ack.return_codes.into_iter().map(refusal).collect())
        }
        Event::Outgoing(Outgoing::Publish(pkid)) => Heard::Sent(pkid),
        Event::Outgoing(Outgoing::Disconnect) => Heard::Goodbye,
        _ => Heard::Other,
    })
}

fn received(publish: Publish) -> Received {
    let properties = publish.properties.unwrap_or_default();
    Received {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        beside: Beside {
            content_type: properties.content_type,
            correlation: properties.correlation_data.map(|c| c.to_vec()),
            response_topic: properties.response_topic,
            expiry: properties.message_expiry_interval,
        },
    }
}

fn broken(e: ConnectionError) -> Broken {
    use ConnectReturnCode::{RefusedProtocolVersion, UnsupportedProtocolVersion};
    match e {
        ConnectionError::ConnectionRefused(RefusedProtocolVersion | UnsupportedProtocolVersion) => {
            Broken::Version
        }
        ConnectionError::ConnectionRefused(code) => Broken::Refused(format!("{code:?}")),
        ConnectionError::Timeout(_) => Broken::Silent,
        ConnectionError::MqttState(e) => Broken::Ended(e.to_string()),
        e @ ConnectionError::NotConnAck(_) => Broken::Ended(e.to_string()),
        ConnectionError::Io(e) => super::io(&e),
        e => Broken::None(e.to_string()),
    }
}
