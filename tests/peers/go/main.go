// Gopeer is an independent peer of the mesh, on go-spiffe and grpc-go: it serves and
// calls grpc.health.v1 by SPIFFE ID, with certificates from the Workload API or from
// files. It tells what happens as JSON lines on standard output.
package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

type source interface {
	x509svid.Source
	x509bundle.Source
}

// identity says where our certificates come from: files if given, else the Workload API.
type identity struct {
	socket, cert, key string
	bundles           pairs
}

type pairs []string

func (p *pairs) String() string     { return strings.Join(*p, ",") }
func (p *pairs) Set(v string) error { *p = append(*p, v); return nil }

func (i *identity) flags(set *flag.FlagSet) {
	set.StringVar(&i.socket, "socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "Workload API socket, unix:///path")
	set.StringVar(&i.cert, "cert", "", "PEM file of the own chain")
	set.StringVar(&i.key, "key", "", "PEM file of the own key")
	set.Var(&i.bundles, "bundle", "TD=FILE, repeatable")
}

type files struct {
	*x509svid.SVID
	*x509bundle.Set
}

func (f files) GetX509SVID() (*x509svid.SVID, error) { return f.SVID, nil }

func (f files) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return f.Set.GetX509BundleForTrustDomain(td)
}

func (i *identity) open(ctx context.Context) (source, error) {
	if i.cert == "" {
		return workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(i.socket)))
	}
	svid, err := x509svid.Load(i.cert, i.key)
	if err != nil {
		return nil, err
	}
	set := x509bundle.NewSet()
	for _, pair := range i.bundles {
		name, path, _ := strings.Cut(pair, "=")
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, err
		}
		bundle, err := x509bundle.Load(td, path)
		if err != nil {
			return nil, err
		}
		set.Add(bundle)
	}
	return files{svid, set}, nil
}

// admitting reads "ID,ID", "td:NAME" or "" (nobody).
func admitting(text string) (tlsconfig.Authorizer, error) {
	if name, found := strings.CutPrefix(text, "td:"); found {
		td, err := spiffeid.TrustDomainFromString(name)
		return tlsconfig.AuthorizeMemberOf(td), err
	}
	var ids []spiffeid.ID
	for _, part := range strings.Split(text, ",") {
		if part == "" {
			continue
		}
		id, err := spiffeid.FromString(part)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return tlsconfig.AuthorizeOneOf(ids...), nil
}

var out sync.Mutex

func say(event string, fields map[string]any) {
	out.Lock()
	defer out.Unlock()
	fields["event"] = event
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func serve(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("serve", flag.ExitOnError)
	var who identity
	who.flags(set)
	listen := set.String("listen", "127.0.0.1:0", "address")
	allow := set.String("allow", "", "whom to admit: ID,ID or td:NAME; empty: nobody")
	_ = set.Parse(args)
	from, err := who.open(ctx)
	if err != nil {
		return err
	}
	admit, err := admitting(*allow)
	if err != nil {
		return err
	}
	told := func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		err := admit(id, chains)
		say("judged", map[string]any{"peer": id.String(), "admitted": err == nil})
		return err
	}
	server := grpc.NewServer(grpc.Creds(grpccredentials.MTLSServerCredentials(from, from, told)))
	healthpb.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	say("listening", map[string]any{"address": listener.Addr().String()})
	go func() { <-ctx.Done(); server.Stop() }()
	return server.Serve(listener)
}

func dial(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("dial", flag.ExitOnError)
	var who identity
	who.flags(set)
	address := set.String("addr", "", "host:port or unix:/path")
	expect := set.String("expect", "", "the server's ID: ID,ID or td:NAME")
	count := set.Int("n", 1, "how many calls")
	interval := set.Duration("interval", 0, "between calls")
	timeout := set.Duration("timeout", 5*time.Second, "of each call")
	reconnect := set.Bool("reconnect", false, "a new connection for each call")
	_ = set.Parse(args)
	from, err := who.open(ctx)
	if err != nil {
		return err
	}
	admit, err := admitting(*expect)
	if err != nil {
		return err
	}
	creds := grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(from, from, admit))
	var connection *grpc.ClientConn
	failed := 0
	for range *count {
		if connection == nil || *reconnect {
			if connection != nil {
				_ = connection.Close()
			}
			if connection, err = grpc.NewClient(*address, creds); err != nil {
				return err
			}
		}
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, *timeout)
		_, err := healthpb.NewHealthClient(connection).Check(limited, &healthpb.HealthCheckRequest{})
		cancel()
		fields := map[string]any{"us": time.Since(begin).Microseconds(), "ok": err == nil}
		if err != nil {
			failed++
			fields["error"] = err.Error()
		}
		say("call", fields)
		time.Sleep(*interval)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d calls failed", failed, *count)
	}
	return nil
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		return errors.New("usage: gopeer serve|dial [flags]")
	}
	switch os.Args[1] {
	case "serve":
		return serve(ctx, os.Args[2:])
	case "dial":
		return dial(ctx, os.Args[2:])
	}
	return errors.New("usage: gopeer serve|dial [flags]")
}

func main() {
	if err := run(); err != nil {
		say("error", map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}
