package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// stream holds connections open, each with a line to and fro every interval, and says when and how
// each broke.
func stream(ctx context.Context, flags *flag.FlagSet, arguments []string) {
	target := flags.String("target", "", "host:port")
	count := flags.Int("streams", 10, "how many")
	seconds := flags.Float64("seconds", 0, "how long; 0 until SIGTERM")
	every := flags.Duration("every", 500*time.Millisecond, "between pings")
	silence := flags.Duration("silence", 10*time.Second, "an answer this late is a break")
	timeout := flags.Duration("timeout", 10*time.Second, "to open one")
	_ = flags.Parse(arguments)
	if *seconds > 0 {
		limited, stop := context.WithTimeout(ctx, time.Duration(*seconds*float64(time.Second)))
		defer stop()
		ctx = limited
	}
	var broken, pings atomic.Int64
	var running sync.WaitGroup
	for n := range *count {
		running.Add(1)
		go func() {
			defer running.Done()
			opened := try(ctx, "tcp", *target, *timeout)
			say(map[string]any{"stream": n, "opened": opened})
			if opened.connection == nil || opened.Error != "" {
				broken.Add(1)
				return
			}
			defer opened.connection.Close()
			done, err := ping(ctx, opened.connection, n, *every, *silence)
			pings.Add(int64(done))
			if err != nil {
				broken.Add(1)
				say(map[string]any{
					"stream": n, "broke_unix_ns": time.Now().UnixNano(), "error": err.Error(),
					"pings": done, "cluster": opened.Cluster, "node": opened.Node, "pod": opened.Pod,
				})
			}
		}()
	}
	running.Wait()
	say(map[string]any{
		"summary": "stream", "streams": *count, "broken": broken.Load(), "pings": pings.Load(),
	})
}

func ping(ctx context.Context, connection net.Conn, n int, every, silence time.Duration) (int, error) {
	answers := bufio.NewReader(connection)
	_ = connection.SetDeadline(time.Time{})
	for sequence := 0; ; sequence++ {
		line, _ := json.Marshal([]int{n, sequence})
		_ = connection.SetDeadline(time.Now().Add(silence))
		if _, err := connection.Write(append(line, '\n')); err != nil {
			return sequence, err
		}
		answer, err := answers.ReadBytes('\n')
		if err != nil {
			return sequence, err
		}
		if string(answer) != string(line)+"\n" {
			return sequence, fmt.Errorf("sent %s, got %s", line, answer)
		}
		select {
		case <-ctx.Done():
			return sequence + 1, nil
		case <-time.After(every):
		}
	}
}
