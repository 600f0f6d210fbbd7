package certstore

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// acmeOrderTimeout bounds one attempt at an order, from newOrder to the
// certificate.
const acmeOrderTimeout = 5 * time.Minute

// An acmeIssued is the result of an order.
type acmeIssued struct {
	cert      *tls.Certificate
	file      []byte // for the cache
	challenge string // the type that succeeded
	ca        *acmeCA
}

// order obtains a certificate for names, with a new key. It tries the available
// challenges in turn, each with its own order, because a failed challenge
// invalidates its order. It starts with the type that succeeded last: if port
// 443 is not ours, each failure of tls-alpn-01 would count towards the CA's
// limits. The error contains the cause of every attempt (acmeFailure). It is an
// acmeAccountWait if the CA was not asked.
//
// replaces is the acmeCertID of the certificate to renew, or "".
//
// The caller must hold the lease of the first name.
func (c *acmeCA) order(ctx context.Context, names []string, did, replaces string) (*acmeIssued, error) {
	client, err := c.client(ctx)
	if err != nil {
		if wait, waits := err.(acmeAccountWait); waits {
			return nil, acmeAccountWait{wait.until, acmeFailure{names, []error{wait.err}}}
		}
		return nil, acmeFailure{names, []error{err}}
	}
	if acmeWild(names) {
		if err := c.ready(ctx, client, names); err != nil {
			failure := acmeFailure{names, []error{acmeCause{acmePersist, err}}}
			if _, missing := err.(acmeRecordMissing); missing {
				return nil, acmeRecordMissing{failure}
			}
			return nil, failure
		}
	}
	var causes []error
	for _, challenge := range c.challenges(names, did) {
		issued, err := c.attempt(ctx, client, names, challenge, replaces)
		// The CA has lost its database, someone has ended the account, or its
		// key was replaced after the attempt began.
		if acmeNoAccount(err) || acmeDeactivated(err) || err != nil && !c.hasKey(ctx, client) {
			c.forget(client)
			if client, err = c.client(ctx); err != nil {
				return nil, acmeFailure{names, append(causes, err)}
			}
			issued, err = c.attempt(ctx, client, names, challenge, replaces)
		}
		if err == nil {
			return issued, nil
		}
		causes = append(causes, acmeCause{challenge, err})
		// Another challenge only helps after a failed validation. It does not
		// help against a rate limit, a network failure or a local error.
		var invalid *acme.AuthorizationError
		if !errors.As(err, &invalid) && !errors.Is(err, errACMENotOffered) {
			break
		}
	}
	return nil, acmeFailure{names, causes}
}

// challenges returns the available types for names, did first.
func (a *ACME) challenges(names []string, did string) (types []string) {
	if acmeWild(names) {
		return []string{acmePersist}
	}
	if a.opts.TLSALPN {
		types = append(types, "tls-alpn-01")
	}
	if a.opts.HTTP01 {
		types = append(types, "http-01")
	}
	if len(types) > 1 && types[1] == did {
		slices.Reverse(types)
	}
	return types
}

// errACMENotOffered means that the CA does not offer this type of challenge.
var errACMENotOffered = errors.New("the CA does not offer it")

// attempt is one order with one type of challenge (RFC 8555, section 7.4).
func (c *acmeCA) attempt(ctx context.Context, client *acme.Client, names []string, challenge, replaces string) (*acmeIssued, error) {
	ctx, cancel := context.WithTimeout(ctx, acmeOrderTimeout)
	defer cancel()
	with, err := c.orderOptions(ctx, client)
	if err != nil {
		return nil, err
	}
	saying := c.replacing(ctx, client, replaces)
	o, err := client.AuthorizeOrder(saying, acme.DomainIDs(names...), with...)
	if saying != ctx && acmeRefusesReplaces(err) {
		o, err = client.AuthorizeOrder(ctx, acme.DomainIDs(names...), with...)
	}
	if err != nil {
		if acmeAccountWide(err) && !acmeDeactivated(err) && c.hasKey(ctx, client) { // the other cases have a remedy
			c.accountRefused(acmeCause{"account", err})
		}
		return nil, acmeStep("new order", c.Directory, err)
	}
	c.accountWell()
	switch o.Status {
	case acme.StatusReady: // authorized before
	case acme.StatusPending:
		if err := c.prove(ctx, client, names, challenge, o.AuthzURLs); err != nil {
			c.relinquish(client, o.AuthzURLs)
			return nil, err
		}
		at := o.URI
		if o, err = client.WaitOrder(ctx, at); err != nil {
			return nil, acmeStep("the order", at, err)
		}
	default:
		return nil, fmt.Errorf("the new order is %q", o.Status)
	}

	key, err := acmeNewLeafKey(c.opts.KeyType)
	if err != nil {
		return nil, err
	}
	// No common name: it is limited to 64 bytes, and host names may be longer.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		return nil, err
	}
	chain, at, err := client.CreateCertFromOrder(ctx, o, csr, true)
	if err != nil {
		return nil, acmeStep("the certificate", o.FinalizeURL, err)
	}
	chain = c.preferred(ctx, client, names[0], at, chain)
	cert, err := acmeCheckIssued(names, key, chain, c.opts.wall())
	if err != nil {
		return nil, err
	}
	file, err := acmeEncode(key, chain)
	if err != nil {
		return nil, err
	}
	return &acmeIssued{cert, file, challenge, c}, nil
}

// orderOptions returns the options of every order. It refuses a profile that
// the CA does not have, without asking.
func (c *acmeCA) orderOptions(ctx context.Context, client *acme.Client) ([]acme.OrderOption, error) {
	if c.Profile == "" {
		return nil, nil
	}
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	profile := acme.ProfileName(c.Profile)
	if _, known := dir.Profiles[profile]; known {
		return []acme.OrderOption{acme.WithOrderIssuanceProfile(profile)}, nil
	}
	c.forget(client) // the client reads the directory only once, and the CA may add the profile
	if len(dir.Profiles) == 0 {
		return nil, fmt.Errorf("profile %q: the CA offers none", c.Profile)
	}
	var offered []string
	for name, what := range dir.Profiles {
		offered = append(offered, printable(fmt.Sprintf("%q (%s)", string(name), what)))
	}
	slices.Sort(offered)
	return nil, fmt.Errorf("profile %q: the CA offers %s", c.Profile, strings.Join(offered, ", "))
}

// prove shows the CA, for each authorization of an order, that we control the
// name. It requests all validations before it waits for the first. The error
// lists all names that failed.
func (c *acmeCA) prove(ctx context.Context, client *acme.Client, names []string, challenge string, authzs []string) error {
	var failed acmeCauses
	asked := map[string]string{} // name → authorization
	for _, authz := range authzs {
		name, answer, tries, err := c.respond(ctx, client, names, challenge, authz)
		if answer != "" {
			defer c.answers.withdraw(answer)
		}
		switch {
		case err == nil && tries:
			asked[name] = authz
		case err != nil && len(names) == 1:
			return err
		case err != nil:
			failed = append(failed, acmeCause{name, err})
		}
	}
	for _, name := range names {
		authz, found := asked[name]
		if !found {
			continue
		}
		_, err := client.WaitAuthorization(ctx, authz)
		err = acmeStep("the CA's validation of the name", authz, err)
		switch {
		case err != nil && len(names) == 1:
			return err
		case err != nil:
			failed = append(failed, acmeCause{name, err})
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// respond has the CA validate one name. It returns the file of the answer, which is to be
// withdrawn; empty: there is none, as for dns-persist-01. tries is false if the CA need
// not validate the name.
func (c *acmeCA) respond(ctx context.Context, client *acme.Client, names []string, challenge, authz string) (name, answer string, tries bool, err error) {
	z, err := client.GetAuthorization(c.listening(ctx), authz)
	if err != nil {
		return "an authorization", "", false, acmeStep("the authorization", authz, err)
	}
	name = names[0]
	if len(names) > 1 {
		name, err = normalName(z.Identifier.Value)
		if z.Wildcard {
			name = "*." + name // RFC 8555, section 7.1.4
		}
		if err != nil || !slices.Contains(names, name) {
			return "an authorization", "", false, fmt.Errorf("is for %.100q, which is not ordered", z.Identifier.Value)
		}
	}
	if z.Status == acme.StatusValid {
		return name, "", false, nil
	}
	if z.Status != acme.StatusPending {
		return name, "", false, fmt.Errorf("the authorization is %q", z.Status)
	}
	i := slices.IndexFunc(z.Challenges, func(ch *acme.Challenge) bool { return ch.Type == challenge })
	if i < 0 {
		return name, "", false, errACMENotOffered
	}
	chal := z.Challenges[i]
	if challenge != acmePersist {
		if answer, err = c.present(ctx, client, name, chal); err != nil {
			return name, "", false, err
		}
	}
	if _, err := client.Accept(ctx, chal); err != nil {
		return name, answer, false, acmeStep("the challenge", chal.URI, err)
	}
	return name, answer, true, nil
}

// present shows the answer to a challenge to the CA, and returns its file.
func (c *acmeCA) present(ctx context.Context, client *acme.Client, name string, chal *acme.Challenge) (answer string, err error) {
	if !acmeTokenOK(chal.Token) {
		return "", fmt.Errorf("token %.40q of the CA: not base64url", chal.Token)
	}
	key, data, err := acmeAnswer(client, name, chal)
	if err != nil {
		return "", err
	}
	if err := c.answers.present(ctx, key, data); err != nil {
		c.opts.Log.Warn("acme: other gates cannot answer this challenge", "server_name", name, "err", err)
	}
	return key, nil
}

// acmeAnswer returns the answer to a challenge and the name of its cache file.
func acmeAnswer(client *acme.Client, name string, chal *acme.Challenge) (key string, answer []byte, err error) {
	if chal.Type == "http-01" {
		text, err := client.HTTP01ChallengeResponse(chal.Token)
		return chal.Token + acmeHTTPSuffix, []byte(text), err
	}
	own, err := acmeNewKey()
	if err != nil {
		return "", nil, err
	}
	// Another gate's Manager rejects the certificate if it is not valid yet by
	// that gate's clock. The CA ignores the dates (RFC 8737, section 3), so
	// they leave room for any clock.
	now := time.Now()
	cert, err := client.TLSALPN01ChallengeCert(chal.Token, name, acme.WithKey(own), acme.WithTemplate(&x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}))
	if err != nil {
		return "", nil, err
	}
	answer, err = acmeEncode(own, cert.Certificate)
	return name + acmeTokenSuffix, answer, err
}

// relinquish deactivates the authorizations that an order left pending, because
// CAs limit their number. It is best effort, and takes at most 10 s.
func (c *acmeCA) relinquish(client *acme.Client, authzs []string) {
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	for _, url := range authzs {
		if z, err := client.GetAuthorization(ctx, url); err == nil && z.Status == acme.StatusPending {
			client.RevokeAuthorization(ctx, url)
		}
	}
}
