package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// attempt is one connection: no retry, so that a failure cannot hide.
type attempt struct {
	Begin     int64   `json:"begin_unix_ns"`
	Connect   float64 `json:"connect_ms"`
	FirstByte float64 `json:"first_byte_ms"`
	Error     string  `json:"error,omitempty"`
	identity
	connection net.Conn
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// try connects and reads the identity; the connection is left open in the answer.
func try(ctx context.Context, protocol, target string, timeout time.Duration) attempt {
	began := time.Now()
	seen := attempt{Begin: began.UnixNano()}
	dialer := net.Dialer{Timeout: timeout}
	connection, err := dialer.DialContext(ctx, protocol, target)
	if err != nil {
		seen.Connect = milliseconds(time.Since(began))
		seen.Error = "connect: " + err.Error()
		return seen
	}
	seen.Connect = milliseconds(time.Since(began))
	_ = connection.SetDeadline(began.Add(timeout))
	if strings.HasPrefix(protocol, "udp") {
		_, _ = connection.Write([]byte("?"))
	}
	line, err := bufio.NewReaderSize(connection, 2048).ReadBytes('\n')
	seen.FirstByte = milliseconds(time.Since(began))
	if err == nil {
		err = json.Unmarshal(line, &seen.identity)
	}
	if err != nil {
		seen.Error = "read: " + err.Error()
	}
	seen.connection = connection
	return seen
}

// load begins connections at fixed instants, each on its own, however the earlier ones fare.
func load(ctx context.Context, flags *flag.FlagSet, arguments []string) {
	target := flags.String("target", "", "host:port")
	protocol := flags.String("protocol", "tcp", "tcp, tcp4, tcp6 or udp")
	rate := flags.Float64("rate", 50, "new connections per second")
	seconds := flags.Float64("seconds", 0, "how long; 0 until SIGTERM")
	hold := flags.Bool("hold", false, "keep connections open to the end")
	timeout := flags.Duration("timeout", 10*time.Second, "of one connection, to its first line")
	_ = flags.Parse(arguments)
	var begun, failed atomic.Int64
	var running sync.WaitGroup
	held := make(chan struct{})
	at(ctx, *rate, *seconds, func() {
		begun.Add(1)
		running.Add(1)
		go func() {
			defer running.Done()
			// Not ctx: what has begun is waited for, or its failure would be ours.
			seen := try(context.Background(), *protocol, *target, *timeout)
			if seen.Error != "" {
				failed.Add(1)
			}
			say(seen)
			if seen.connection != nil {
				if *hold && seen.Error == "" {
					<-held
				}
				seen.connection.Close()
			}
		}()
	})
	close(held)
	running.Wait()
	say(map[string]any{"summary": "load", "begun": begun.Load(), "failed": failed.Load()})
}

// at calls begin at begin + n / rate. Instants do not drift: a late one is not made up for by
// moving the others.
func at(ctx context.Context, rate, seconds float64, begin func()) {
	began := time.Now()
	for n := 0; seconds == 0 || float64(n) < rate*seconds; n++ {
		instant := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(instant)):
		}
		begin()
	}
}

// once is a single connection.
func once(ctx context.Context, flags *flag.FlagSet, arguments []string) {
	target := flags.String("target", "", "host:port")
	protocol := flags.String("protocol", "tcp", "tcp, tcp4, tcp6 or udp")
	timeout := flags.Duration("timeout", 5*time.Second, "to the first line")
	_ = flags.Parse(arguments)
	say(try(ctx, *protocol, *target, *timeout))
}
