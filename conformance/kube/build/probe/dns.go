package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var types = map[string]uint16{
	"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33,
}

// lookup is one question and its answer; the resolver of the standard library would retry and cache.
type lookup struct {
	Begin   int64    `json:"begin_unix_ns"`
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Code    int      `json:"rcode"`
	Answers []string `json:"answers"`
	TTL     uint32   `json:"ttl"`
	Time    float64  `json:"ms"`
	Error   string   `json:"error,omitempty"`
}

// dns asks at fixed instants and says what came back: rcode, answers, time. No search list: the
// name is taken as it stands.
func dns(ctx context.Context, flags *flag.FlagSet, arguments []string) {
	name := flags.String("name", "", "what to ask for; several by comma are asked in turn")
	server := flags.String("server", "", "address[:port]; else the pod's own server")
	kind := flags.String("type", "A", "A, AAAA, SRV, PTR, TXT, NS or SOA")
	rate := flags.Float64("rate", 10, "questions per second")
	seconds := flags.Float64("seconds", 0, "how long; 0 until SIGTERM")
	count := flags.Int("count", 0, "how many in all, instead of --seconds")
	timeout := flags.Duration("timeout", 5*time.Second, "of one question")
	_ = flags.Parse(arguments)
	if types[*kind] == 0 {
		fail("%q is no type", *kind)
	}
	if *count > 0 {
		*seconds = float64(*count) / *rate
	}
	address := resolver(*server)
	names := strings.Split(*name, ",")
	var asked, failed atomic.Int64
	var running sync.WaitGroup
	at(ctx, *rate, *seconds, func() {
		wanted := names[int(asked.Add(1)-1)%len(names)]
		running.Add(1)
		go func() {
			defer running.Done()
			seen := lookup{Begin: time.Now().UnixNano(), Name: wanted, Type: *kind, Code: -1, Answers: []string{}}
			began := time.Now()
			if err := seen.ask(address, *timeout); err != nil {
				seen.Error = err.Error()
				failed.Add(1)
			}
			seen.Time = milliseconds(time.Since(began))
			say(seen)
		}()
	})
	running.Wait()
	say(map[string]any{"summary": "dns", "asked": asked.Load(), "failed": failed.Load()})
}

func resolver(server string) string {
	if server == "" {
		text, _ := os.ReadFile("/etc/resolv.conf")
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
				server = fields[1]
				break
			}
		}
	}
	if _, _, err := net.SplitHostPort(server); err != nil {
		return net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	return server
}

func (l *lookup) ask(server string, timeout time.Duration) error {
	id := uint16(rand.Uint32())
	question := binary.BigEndian.AppendUint16(nil, id)
	question = append(question, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(strings.Trim(l.Name, "."), ".") {
		question = append(append(question, byte(len(label))), label...)
	}
	question = append(question, 0)
	question = binary.BigEndian.AppendUint16(question, types[l.Type])
	question = binary.BigEndian.AppendUint16(question, 1)
	connection, err := net.DialTimeout("udp", server, timeout)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(timeout))
	if _, err := connection.Write(question); err != nil {
		return err
	}
	answer := make([]byte, 65536)
	for {
		n, err := connection.Read(answer)
		if err != nil {
			return err
		}
		if n >= 12 && binary.BigEndian.Uint16(answer) == id {
			return l.parse(answer[:n])
		}
	}
}

var errShort = errors.New("the answer is cut short")

func (l *lookup) parse(message []byte) error {
	l.Code = int(message[3] & 15)
	questions, answers := binary.BigEndian.Uint16(message[4:]), binary.BigEndian.Uint16(message[6:])
	at := 12
	for range questions {
		_, next, err := domain(message, at)
		if err != nil {
			return err
		}
		at = next + 4
	}
	for range answers {
		_, next, err := domain(message, at)
		if err != nil || next+10 > len(message) {
			return errShort
		}
		kind := binary.BigEndian.Uint16(message[next:])
		l.TTL = binary.BigEndian.Uint32(message[next+4:])
		at = next + 10 + int(binary.BigEndian.Uint16(message[next+8:]))
		if at > len(message) {
			return errShort
		}
		l.Answers = append(l.Answers, record(message, kind, next+10, at))
	}
	return nil
}
