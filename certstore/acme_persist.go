package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// A CA issues wildcards only if DNS shows that they may be issued. dns-persist-01
// (draft-ietf-acme-dns-persist) needs no credentials for that: an operator sets one TXT
// record for each domain, which names the CA and the account, and leaves it there.
//
// The gate looks the record up before it orders, because a failed validation counts
// towards the CA's limits, and says what is missing. Where DNS gives no answer it orders:
// the CA has a resolver of its own.

// acmePersist is the type of challenge for certificates with a wildcard. It validates all
// names of such a certificate: the record of a domain is for its wildcard, too.
const acmePersist = "dns-persist-01"

const (
	acmeLookupTimeout = 10 * time.Second // for the TXT records of one domain
	acmeLookupAgain   = 5 * time.Minute  // after a lookup without the record
	acmeMaxIssuers    = 10               // that a CA may go by (issuer-domain-names)
)

// An ACMERecord is a TXT record that an operator has to set, once.
type ACMERecord struct {
	Name  string // fully qualified, with a dot at its end
	Value string
	For   []string // names of the configuration that need it
	CA    string   // directory URL
	Err   string   // why it is not there; empty: it is
}

// String returns the record as a zone file has it.
func (r ACMERecord) String() string { return fmt.Sprintf("%s IN TXT %q", r.Name, r.Value) }

// DNSRecords returns the TXT records that the wildcards need, as they should be and
// whether they are there. It registers the accounts that are not registered yet.
func (a *ACME) DNSRecords(ctx context.Context) (records []ACMERecord, err error) {
	var names []string
	for _, list := range a.names.Load().lists {
		if acmeWild(list) {
			names = append(names, list...)
		}
	}
	domains := acmeDomains(names)
	if len(domains) == 0 {
		return nil, nil
	}
	for _, c := range a.cas {
		client, err := c.client(ctx)
		if err != nil {
			return nil, err
		}
		issuers, err := c.issuers(ctx, client)
		if err != nil {
			return nil, err
		}
		if len(issuers) == 0 {
			return nil, fmt.Errorf("%s does not say by which name it goes in DNS (caaIdentities) before it is asked for a certificate; try again when it was", c.Directory)
		}
		for _, d := range domains {
			r := c.record(client, issuers, d)
			if err := c.lookUp(ctx, client, issuers, d); err != nil {
				r.Err = err.Error()
			}
			records = append(records, r)
		}
	}
	return records, nil
}

// acmeWild reports whether a list of names has a wildcard.
func acmeWild(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "*.") })
}

// An acmeDomain is what one record is for.
type acmeDomain struct {
	name  string   // without "*."
	names []string // of the configuration
}

// owner is the name of the record.
func (d acmeDomain) owner() string { return "_validation-persist." + d.name + "." }

// acmeDomains returns the domains of names, sorted.
func acmeDomains(names []string) (domains []acmeDomain) {
	byName := map[string][]string{}
	for _, name := range names {
		domain := strings.TrimPrefix(name, "*.")
		byName[domain] = append(byName[domain], name)
	}
	for _, domain := range slices.Sorted(maps.Keys(byName)) {
		domains = append(domains, acmeDomain{domain, byName[domain]})
	}
	return domains
}

// record returns the record of a domain.
func (c *acmeCA) record(client *acme.Client, issuers []string, d acmeDomain) ACMERecord {
	value := issuers[0] + "; accounturi=" + string(client.KID)
	if acmeWild(d.names) {
		value += "; policy=wildcard"
	}
	return ACMERecord{Name: d.owner(), Value: value, For: d.names, CA: c.Directory}
}

// issuers returns the names by which a CA goes in DNS: those that it gave with the last
// challenge, or else those of its directory; none: it has not said.
func (c *acmeCA) issuers(ctx context.Context, client *acme.Client) ([]string, error) {
	if told := c.toldIssuers.Load(); told != nil {
		return *told, nil
	}
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, acmeStep("the directory", c.Directory, err)
	}
	return acmeIssuerNames(dir.CAA), nil
}

// acmeIssuerNames returns those of a CA's names that can be in a record.
func acmeIssuerNames(names []string) (out []string) {
	for _, name := range names {
		if normal, err := normalName(name); err == nil && len(out) < acmeMaxIssuers {
			out = append(out, normal)
		}
	}
	return out
}

// An acmeRecordMissing means that an order would fail, and was not made.
type acmeRecordMissing struct{ error }

// ready returns an acmeRecordMissing if the records of names are not as they must be. It
// returns nil if DNS does not answer, or the CA has not said by which name it goes.
func (c *acmeCA) ready(ctx context.Context, client *acme.Client, names []string) error {
	issuers, err := c.issuers(ctx, client)
	if err != nil || len(issuers) == 0 {
		return err
	}
	var missing []error
	for _, d := range acmeDomains(names) {
		err := c.lookUp(ctx, client, issuers, d)
		if _, unanswered := errors.AsType[acmeNoDNS](err); err != nil && !unanswered {
			missing = append(missing, fmt.Errorf("%w; set %s", err, c.record(client, issuers, d)))
		}
	}
	if len(missing) > 0 {
		return acmeRecordMissing{acmeCauses(missing)}
	}
	return nil
}

// An acmeNoDNS means that it is not known which records there are.
type acmeNoDNS struct{ error }

// lookUp returns why the record of a domain is not as it must be, or nil.
func (c *acmeCA) lookUp(ctx context.Context, client *acme.Client, issuers []string, d acmeDomain) error {
	ctx, cancel := context.WithTimeout(ctx, acmeLookupTimeout)
	defer cancel()
	texts, err := c.opts.lookupTXT(ctx, d.owner())
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		texts, err = nil, nil
	}
	if err != nil {
		if dns, ok := errors.AsType[*net.DNSError](err); ok && c.opts.DNSServer != "" {
			dns.Server = c.opts.DNSServer // not the system's, as package net has it
		}
		return acmeNoDNS{fmt.Errorf("TXT record %s: %w", d.owner(), err)}
	}
	why := errors.New("is not there")
	for _, text := range texts {
		r, err := acmeParsePersist(text)
		if err == nil {
			err = r.suits(issuers, string(client.KID), acmeWild(d.names), c.opts.wall())
		}
		if err == nil {
			return nil
		}
		why = fmt.Errorf("%.200q %w", printable(text), err)
	}
	return fmt.Errorf("TXT record %s %w", d.owner(), why)
}

// acmeResolver returns a resolver that asks the DNS server at an address; empty: the
// system's.
func acmeResolver(address string) *net.Resolver {
	if address == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
}

// An acmePersistRecord is a TXT record as the CA reads it: a CAA issue value (RFC 8659,
// section 4.2) with parameters.
type acmePersistRecord struct {
	issuer   string
	account  string
	wildcard bool
	until    time.Time // zero: for ever
}

func acmeParsePersist(text string) (r acmePersistRecord, err error) {
	parts := strings.Split(text, ";")
	r.issuer = strings.Trim(parts[0], " \t")
	seen := map[string]bool{}
	for _, part := range parts[1:] {
		tag, value, found := strings.Cut(part, "=")
		tag, value = strings.ToLower(strings.Trim(tag, " \t")), strings.Trim(value, " \t")
		switch {
		case !found || tag == "":
			return r, fmt.Errorf("has %q where a tag and a value are required", printable(part))
		case seen[tag]:
			return r, fmt.Errorf("has %s twice", printable(tag))
		case strings.ContainsFunc(value, func(c rune) bool { return c < 0x21 || c > 0x7e }):
			return r, fmt.Errorf("has a value of %s that is not one word of ASCII", printable(tag))
		}
		seen[tag] = true
		switch tag {
		case "accounturi":
			r.account = value
		case "policy":
			r.wildcard = strings.EqualFold(value, "wildcard")
		case "persistuntil":
			seconds, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return r, errors.New("has a persistUntil that is not a number of seconds")
			}
			r.until = time.Unix(seconds, 0)
		}
	}
	return r, nil
}

// suits returns what is wrong with a record for an account, or nil.
func (r acmePersistRecord) suits(issuers []string, account string, wildcard bool, now time.Time) error {
	switch {
	case !slices.Contains(issuers, r.issuer):
		return errors.New("is for another CA")
	case r.account == "":
		return errors.New("has no accounturi")
	case r.account != account:
		return errors.New("is for another account")
	case wildcard && !r.wildcard:
		return errors.New("lacks policy=wildcard")
	case !r.until.IsZero() && now.After(r.until):
		return fmt.Errorf("has ended (persistUntil is %s)", r.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// acme.Challenge has no field for the issuer-domain-names of dns-persist-01. So the answer
// with the authorization is read on its way as well.

type acmeIssuersKey struct{}

// listening returns a context for GetAuthorization, whose answer tells c.toldIssuers.
func (c *acmeCA) listening(ctx context.Context) context.Context {
	return context.WithValue(ctx, acmeIssuersKey{}, c)
}

// acmeHearIssuers notes what the answer to a request says of the CA's names.
func acmeHearIssuers(ctx context.Context, data []byte) {
	c, ok := ctx.Value(acmeIssuersKey{}).(*acmeCA)
	if !ok {
		return
	}
	var authz struct {
		Challenges []struct {
			Type    string
			Issuers []string `json:"issuer-domain-names"`
		}
	}
	if json.Unmarshal(data, &authz) != nil {
		return
	}
	for _, challenge := range authz.Challenges {
		if names := acmeIssuerNames(challenge.Issuers); challenge.Type == acmePersist && len(names) > 0 {
			c.toldIssuers.Store(&names)
		}
	}
}
