"""A real mail server (aiosmtpd) for tests: TLS, a login, each mail a file. Arguments: port, folder, "starttls" or "tls", certificate, key, user, password."""
import logging, os, ssl, sys, time, warnings
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

warnings.simplefilter("ignore")
logging.disable()
port, folder, tls, certificate, key, user, password = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)


class Keeper:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        name = os.path.join(folder, "%04d.eml" % self.count)
        head = "X-Envelope-To: %s\r\nX-Login: %s\r\n" % (",".join(envelope.rcpt_tos), session.auth_data.login.decode())
        with open(name + ".new", "wb") as file:
            file.write(head.encode() + envelope.content)
        os.rename(name + ".new", name)
        return "250 kept"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == user.encode() and data.password == password.encode(), auth_data=data, handled=False)


options = dict(hostname="127.0.0.1", port=int(port), authenticator=authenticate, auth_required=True)
if tls == "tls":
    # Protected from the beginning: what comes in it may log in.
    controller = Controller(Keeper(), ssl_context=context, auth_require_tls=False, **options)
else:
    controller = Controller(Keeper(), tls_context=context, require_starttls=True, **options)
controller.start()
print("ready", flush=True)
while True:
    time.sleep(3600)
