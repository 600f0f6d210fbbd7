package certstore

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/acme"
)

// An acmeFailure is a failed order. It lists the cause of each attempt on one
// line. errors.Is and errors.As see all causes.
type acmeFailure struct {
	names  []string
	causes []error
}

func (f acmeFailure) Error() string {
	causes := make([]string, len(f.causes))
	for i, err := range f.causes {
		causes[i] = err.Error()
	}
	return fmt.Sprintf("acme: order for %s: %s", acmeListed(f.names), strings.Join(causes, "; "))
}

func (f acmeFailure) Unwrap() []error { return f.causes }

// acmeListed names a certificate in messages.
func acmeListed(names []string) string {
	if len(names) == 1 {
		return fmt.Sprintf("%q", names[0])
	}
	return fmt.Sprintf("%q and %d more", names[0], len(names)-1)
}

// acmeCauses are the failures of some of several names.
type acmeCauses []error

func (c acmeCauses) Error() string {
	words := make([]string, len(c))
	for i, err := range c {
		words[i] = acmeWords(err)
	}
	return strings.Join(words, ", ")
}

func (c acmeCauses) Unwrap() []error { return c }

// An acmeCause is the failure of one attempt, in the CA's words.
type acmeCause struct {
	doing string // type of challenge, "account", or one of several names
	err   error
}

func (c acmeCause) Error() string { return c.doing + ": " + acmeWords(c.err) }
func (c acmeCause) Unwrap() error { return c.err }

// acmeWords returns an error as one line with everything that the CA said:
// problem documents with their subproblems (RFC 8555, section 6.7), without the
// prefix that all of them share.
func acmeWords(err error) string {
	var authz *acme.AuthorizationError
	var order *acme.OrderError
	var problem *acme.Error
	switch err.(type) {
	case acmeCause, acmeCauses: // these are formatted already
		return err.Error()
	}
	switch {
	case errors.As(err, &authz) && len(authz.Errors) > 0:
		words := make([]string, len(authz.Errors))
		for i, err := range authz.Errors {
			words[i] = acmeWords(err)
		}
		return strings.Join(words, ", ")
	case errors.As(err, &authz):
		return "the authorization is invalid; the CA gives no reason"
	case errors.As(err, &order) && order.Problem != nil:
		return acmeWords(order.Problem)
	case errors.As(err, &order):
		return fmt.Sprintf("the order is %q; the CA gives no reason", order.Status)
	case errors.As(err, &problem):
		return acmeProblem(problem)
	}
	return printable(err.Error())
}

func acmeProblem(p *acme.Error) string {
	words := printable(p.Detail)
	if p.ProblemType != "" {
		words = acmeProblemType(p.ProblemType) + ": " + words
	} else if p.StatusCode != 0 {
		words = fmt.Sprintf("status %d: %s", p.StatusCode, words)
	}
	var subs []string
	for _, sub := range p.Subproblems {
		s := acmeProblemType(sub.Type) + ": " + printable(sub.Detail)
		if sub.Identifier != nil {
			s = printable(sub.Identifier.Value) + ": " + s
		}
		subs = append(subs, s)
	}
	if len(subs) > 0 {
		words += " (" + strings.Join(subs, "; ") + ")"
	}
	return words
}

func acmeProblemType(urn string) string {
	return printable(strings.TrimPrefix(urn, "urn:ietf:params:acme:error:"))
}

// acmeIsRateLimit reports whether a rate limit of the CA was reached.
func acmeIsRateLimit(err error) bool {
	var problem *acme.Error
	return errors.As(err, &problem) && problem.ProblemType == "urn:ietf:params:acme:error:rateLimited"
}

// acmeNoAccount reports whether the CA does not know the account, or no longer.
func acmeNoAccount(err error) bool {
	var problem *acme.Error
	return errors.As(err, &problem) && problem.ProblemType == "urn:ietf:params:acme:error:accountDoesNotExist" ||
		errors.Is(err, acme.ErrNoAccount)
}

// acmeAccountWide reports whether the CA's answer to a new order applies to
// every name of the account. Only its text tells which limit was reached (RFC
// 8555, section 6.6, has one type for all).
func acmeAccountWide(err error) bool {
	var problem *acme.Error
	if !errors.As(err, &problem) || len(problem.Subproblems) > 0 {
		return false
	}
	switch acmeProblemType(problem.ProblemType) {
	case "externalAccountRequired", "userActionRequired":
		return true
	case "unauthorized", "rateLimited":
		return strings.Contains(strings.ToLower(problem.Detail), "account")
	}
	return false
}

// acmeDeactivated reports whether the account was deactivated at the request of
// someone with its key (RFC 8555, section 7.3.6). Revocation by the CA is
// another state.
func acmeDeactivated(err error) bool {
	var problem *acme.Error
	return errors.As(err, &problem) && acmeProblemType(problem.ProblemType) == "unauthorized" &&
		strings.Contains(strings.ToLower(problem.Detail), "deactivated") && strings.Contains(strings.ToLower(problem.Detail), "account")
}
