package model

import "testing"

// The rows of spec xds.md 3.
func TestParseProtocol(t *testing.T) {
	for _, c := range []struct {
		app, name string
		want      Protocol
	}{
		{"", "http", HTTP}, {"", "http2-api", HTTP2}, {"", "grpc-api", GRPC}, {"", "https-web", HTTPS}, {"", "tls-x", TLS},
		{"", "mongo", Mongo}, {"", "redis-cache", Redis}, {"", "mysql-db", MySQL}, {"", "tcp-http", TCP}, {"", "udp-http", TCP},
		{"", "HTTP-Main", HTTP}, {"", "", TCP}, {"", "web", TCP}, {"", "httpx", TCP}, {"", "http_x", TCP},
		{"", "grpc-web", HTTP}, {"", "grpc-web-api", HTTP}, {"", "grpc-website", GRPC},
		{"http", "tcp-x", HTTP}, {"TCP", "http", TCP}, {"udp", "http", TCP}, {"GRPC-Web", "tcp", HTTP},
		{"kubernetes.io/h2c", "tcp", HTTP2}, {"kubernetes.io/ws", "tcp", HTTP}, {"kubernetes.io/wss", "http", HTTP}, {"amqp", "http", HTTP},
	} {
		if got := ParseProtocol(c.app, c.name); got != c.want {
			t.Errorf("appProtocol %q, name %q: %s, want %s", c.app, c.name, got, c.want)
		}
	}
}
