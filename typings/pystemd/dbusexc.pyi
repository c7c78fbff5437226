# SPDX-License-Identifier: Apache-2.0
class DBusBaseError(Exception):
    errno: int
    # Empty for the errors that have a class of their own.
    err_name: bytes | str
    err_message: bytes | str

class DBusNoSuchUnitError(DBusBaseError): ...
class DBusFileNotFoundError(DBusBaseError): ...
