// Probe is both ends of every test: servers that say who they are, and clients that write one line
// of JSON for each thing they saw. It judges nothing; the suite does.
//
// Standard library only and no C, so that its image is one file. It is the pause image too.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

var out struct {
	sync.Mutex
	*json.Encoder
}

// say writes one line; os.Stdout has no buffer, so that a line is out when it is written.
func say(line any) {
	out.Lock()
	defer out.Unlock()
	_ = out.Encode(line)
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "probe: "+format+"\n", values...)
	os.Exit(2)
}

// identity is the answer of every server, so that no test has to trust an address.
type identity struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	Pod     string `json:"pod"`
	IP      string `json:"ip,omitempty"`
	Port    int    `json:"port,omitempty"`
	Peer    string `json:"peer,omitempty"`
}

func main() {
	out.Encoder = json.NewEncoder(os.Stdout)
	if len(os.Args) < 2 {
		fail("wants one of serve, load, stream, dns, once, pause")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if os.Args[1] == "until-eof" && len(os.Args) > 2 {
		os.Args = os.Args[1:]
		ended := untilEOF(ctx)
		say(map[string]bool{"started": true})
		defer func() {
			say(map[string]bool{"done": true})
			<-ended.Done()
		}()
		ctx = ended
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	commands := map[string]func(context.Context, *flag.FlagSet, []string){
		"serve": serve, "load": load, "stream": stream, "dns": dns, "once": once,
	}
	if command, known := commands[os.Args[1]]; known {
		command(ctx, flags, os.Args[2:])
		return
	}
	if os.Args[1] != "pause" {
		fail("%q is no command", os.Args[1])
	}
	pause(ctx)
}

// untilEOF ends with standard input: whoever runs a program inside a container can close that
// from afar, but not send a signal. A container runtime can lose the end of an input that is closed
// before the program runs, and the output of a program that is over before its pipes are open: so it
// says when it has started, and when it is done, and waits for the end.
func untilEOF(ctx context.Context) context.Context {
	ctx, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return ctx
}

// pause holds a sandbox's namespaces and reaps what is left to it.
func pause(ctx context.Context) {
	children := make(chan os.Signal, 16)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return
		case <-children:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}
