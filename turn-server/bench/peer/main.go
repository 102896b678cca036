// Command pion-turn is a TURN server of the pion library for the benchmark: UDP and TLS, one
// fixed user, relays to everybody.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

func main() {
	address := flag.String("address", "127.0.0.1", "address of the listeners and the relays")
	user := flag.String("user", "bench", "user name")
	password := flag.String("password", "bench", "password")
	realm := flag.String("realm", "bench", "realm")
	certificate := flag.String("certificate", "", "PEM certificate of TLS")
	key := flag.String("key", "", "PEM key of TLS")
	flag.Parse()

	relay := &turn.RelayAddressGeneratorPortRange{
		RelayAddress: net.ParseIP(*address),
		Address:      *address,
		MinPort:      49152,
		MaxPort:      65535,
	}
	loggers := logging.NewDefaultLoggerFactory()
	loggers.DefaultLogLevel = logging.LogLevelError
	config := turn.ServerConfig{
		Realm:         *realm,
		LoggerFactory: loggers,
		AuthHandler: func(attributes *turn.RequestAttributes) (string, []byte, bool) {
			if attributes.Username != *user {
				return "", nil, false
			}
			return *user, turn.GenerateAuthKey(*user, *realm, *password), true
		},
	}
	udp, err := net.ListenPacket("udp4", net.JoinHostPort(*address, "3478"))
	if err != nil {
		log.Fatal(err)
	}
	config.PacketConnConfigs = []turn.PacketConnConfig{
		{PacketConn: udp, RelayAddressGenerator: relay},
	}
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		listener, err := tls.Listen("tcp4", net.JoinHostPort(*address, "5349"),
			&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		if err != nil {
			log.Fatal(err)
		}
		config.ListenerConfigs = []turn.ListenerConfig{
			{Listener: listener, RelayAddressGenerator: relay},
		}
	}
	server, err := turn.NewServer(config)
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	<-ended
	if err := server.Close(); err != nil {
		log.Print(err)
	}
}
