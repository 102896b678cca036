// Runs the load test of LiveKit's command line, `lk load-test`, without the rest of that program:
// subscribers only, since the media of its publishers is not part of the Go module. It prints
// the load tester's own tables.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/livekit/livekit-cli/v2/pkg/loadtester"
)

func main() {
	var params loadtester.Params
	flag.StringVar(&params.URL, "url", "", "address of the server")
	flag.StringVar(&params.APIKey, "api-key", "", "API key")
	flag.StringVar(&params.APISecret, "api-secret", "", "its secret")
	flag.StringVar(&params.Room, "room", "", "name of the room")
	flag.IntVar(&params.Subscribers, "subscribers", 1, "participants that join")
	flag.Float64Var(&params.NumPerSecond, "num-per-second", 10, "joins in a second, at most 10")
	flag.DurationVar(&params.Duration, "duration", 0, "time to receive once all have joined")
	flag.Parse()
	params.Layout = loadtester.LayoutSpeaker
	if err := loadtester.NewLoadTest(params).Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
