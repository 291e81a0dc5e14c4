"""A mail server that keeps its mails: STARTTLS and login or nothing. One file a mail, complete when it has its name.

Arguments: address, port, directory, certificate, key, user, password."""

import os
import ssl
import sys
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

ADDRESS, PORT, DIRECTORY, CERTIFICATE, KEY, USER, PASSWORD = sys.argv[1:]


class Sink:
    mails = 0

    async def handle_DATA(self, server, session, envelope):
        self.mails += 1
        path = os.path.join(DIRECTORY, f"{self.mails:04}")
        with open(path + ".new", "wb") as file:
            encrypted = session.ssl is not None
            head = f"X-Sink: from={envelope.mail_from} to={','.join(envelope.rcpt_tos)} tls={encrypted} "
            head += f"login={session.auth_data.decode()} helo={session.host_name}\r\n"
            file.write(head.encode() + envelope.original_content)
        os.rename(path + ".new", path + ".eml")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=False, auth_data=data.login if right else None)


tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(CERTIFICATE, KEY)
Controller(
    Sink(),
    hostname=ADDRESS,
    port=int(PORT),
    tls_context=tls,
    require_starttls=True,
    auth_required=True,
    authenticator=authenticate,
).start()
while True:
    time.sleep(60)
