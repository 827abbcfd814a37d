"""Reading from the city's own MQTT broker, through paho-mqtt.

`driver.BrokerDriver` is what the process starts; `link` is one connection, `proof` shows that the broker keeps devices apart,
and the rest decides without I/O. The front door (`citysense_gateway.mqtt`) is the default way in; docs/broker.md says when to
use which.
"""
