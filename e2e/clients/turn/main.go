// Command turn-client is a TURN client of the pion library: it sends messages through a relay to a
// peer that returns them, and ends with an error unless all come back unchanged.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

const (
	messages = 20
	size     = 500
	patience = 10 * time.Second
)

func main() {
	transport := flag.String("transport", "udp", "udp, tcp or tls")
	server := flag.String("server", "", "address of the server")
	authority := flag.String("authority", "", "PEM certificate to trust")
	user := flag.String("user", "", "user name")
	password := flag.String("password", "", "password")
	peer := flag.String("peer", "", "address of the peer")
	flag.Parse()
	if err := run(*transport, *server, *authority, *user, *password, *peer); err != nil {
		log.Fatal(err)
	}
}

func run(transport, server, authority, user, password, peer string) error {
	conn, err := dial(transport, server, authority)
	if err != nil {
		return err
	}
	defer conn.Close()
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server,
		TURNServerAddr: server,
		Conn:           conn,
		Username:       user,
		Password:       password,
		LoggerFactory:  logging.NewDefaultLoggerFactory(),
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		return err
	}
	relay, err := client.Allocate()
	if err != nil {
		return fmt.Errorf("allocating: %w", err)
	}
	defer relay.Close()
	address, err := net.ResolveUDPAddr("udp4", peer)
	if err != nil {
		return err
	}
	if err := relay.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buffer := make([]byte, 2*size)
	for round := range messages {
		message := bytes.Repeat([]byte{byte(round)}, size)
		if _, err := relay.WriteTo(message, address); err != nil {
			return fmt.Errorf("sending %d: %w", round, err)
		}
		length, from, err := relay.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("receiving %d: %w", round, err)
		}
		if !bytes.Equal(buffer[:length], message) || from.String() != peer {
			return fmt.Errorf("%d bytes from %s came back as %d", length, from, round)
		}
	}
	return nil
}

func dial(transport, server, authority string) (net.PacketConn, error) {
	switch transport {
	case "udp":
		return net.ListenPacket("udp4", "127.0.0.1:0")
	case "tcp":
		conn, err := net.Dial("tcp4", server)
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	case "tls":
		certificate, err := os.ReadFile(authority)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(certificate)
		conn, err := tls.Dial("tcp4", server, &tls.Config{RootCAs: roots})
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	default:
		return nil, fmt.Errorf("unknown transport %q", transport)
	}
}
