# SPDX-License-Identifier: LGPL-2.1-or-later
"""What org.hibprep.Manager1 looks like: its description, its properties, and what is wrong with a
call. Pure; `hibprep.bus.manager` puts it on the bus.

The description is written by hand, because the libraries' own cannot be relied upon; a test holds
it against what is really answered. Error names are those of the D-Bus specification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hibprep.sizes import shorten
from hibprep.status import Status

NAME = "org.hibprep.Manager1"
PATH = "/org/hibprep/Manager1"
INTERFACE = "org.hibprep.Manager1"

PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
NOT_SUPPORTED = "org.freedesktop.DBus.Error.NotSupported"
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
UNKNOWN_INTERFACE = "org.freedesktop.DBus.Error.UnknownInterface"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
UNKNOWN_PROPERTY = "org.freedesktop.DBus.Error.UnknownProperty"

Value = tuple[str, object]  # its signature and itself
Values = dict[str, Value]

_LARGEST_UINT64 = 2**64 - 1

_DOCTYPE = """<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
"""

_STANDARD = """ <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
 </interface>
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect">
   <arg name="xml_data" type="s" direction="out"/>
  </method>
 </interface>
"""

# HibernateSeconds, ResumeSeconds and SaveableBytes are 0 as long as they are not known. LastReport
# is a JSON object, or empty. Each of Sources is a name, whether it works, and why or how.
# Prepare's target is "" (as configured), "image_size", "min" or a size; its timeout is in seconds,
# 0 as configured.
_OBJECT = """ <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="out"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="properties" type="a{sv}" direction="out"/>
  </method>
  <method name="Set">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="in"/>
  </method>
  <signal name="PropertiesChanged">
   <arg name="interface_name" type="s"/>
   <arg name="changed_properties" type="a{sv}"/>
   <arg name="invalidated_properties" type="as"/>
  </signal>
 </interface>
 <interface name="org.hibprep.Manager1">
  <method name="Prepare">
   <arg name="target" type="s" direction="in"/>
   <arg name="timeout" type="d" direction="in"/>
  </method>
  <method name="Stop"/>
  <method name="SwapIn"/>
  <property name="State" type="s" access="read"/>
  <property name="Reason" type="s" access="read"/>
  <property name="Policy" type="s" access="read"/>
  <property name="HibernateSeconds" type="d" access="read"/>
  <property name="ResumeSeconds" type="d" access="read"/>
  <property name="SaveableBytes" type="t" access="read"/>
  <property name="NextStep" type="s" access="read"/>
  <property name="LastReport" type="s" access="read"/>
  <property name="Sources" type="a(sbs)" access="read"/>
 </interface>
"""


class CallError(Exception):
    """The answer to a call that cannot be served; `name` is the D-Bus error's name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class Method:
    """A method of one of the interfaces, and the signature of its arguments."""

    interface: str
    name: str
    signature: str = ""


_METHODS = (
    Method(PEER, "Ping"),
    Method(INTROSPECTABLE, "Introspect"),
    Method(PROPERTIES, "Get", "ss"),
    Method(PROPERTIES, "GetAll", "s"),
    Method(PROPERTIES, "Set", "ssv"),
    Method(INTERFACE, "Prepare", "sd"),
    Method(INTERFACE, "Stop"),
    Method(INTERFACE, "SwapIn"),
)
_ANYWHERE = frozenset({PEER, INTROSPECTABLE})
_INTERFACES = frozenset(method.interface for method in _METHODS)


def find(path: str, interface: str | None, member: str, signature: str) -> Method:
    """The method that a call is for; CallError when there is none such or its arguments are of
    other types. The interface of a call may be left out."""
    here = _INTERFACES if path == PATH else _ANYWHERE
    if path != PATH and not _child(path):
        raise CallError(UNKNOWN_OBJECT, f"there is no object {path}; see {PATH}")
    if interface is not None and interface not in here:
        raise CallError(UNKNOWN_INTERFACE, f"{path} has no interface {interface}")
    for method in _METHODS:
        if method.name != member or method.interface not in here:
            continue
        if interface not in (None, method.interface):
            continue
        if signature != method.signature:
            raise CallError(
                INVALID,
                f'{member} takes arguments of the types "{method.signature}", not "{signature}"',
            )
        return method
    raise CallError(UNKNOWN_METHOD, f"{interface or path} has no method {member}")


def introspection(path: str) -> str:
    """The description of the object at `path`, or of what leads to it."""
    child = _child(path)
    inner = _OBJECT if path == PATH else f' <node name="{child}"/>\n'
    return f"{_DOCTYPE}<node>\n{_STANDARD}{inner}</node>\n"


def properties(status: Status) -> Values:
    """All properties, by name."""
    prediction = status.prediction
    last = "" if status.last_report is None else json.dumps(dict(status.last_report))
    return {
        "State": ("s", _text(status.phase)),
        "Reason": ("s", _text(status.reason)),
        "Policy": ("s", _text(status.policy)),
        "HibernateSeconds": ("d", float(prediction.get("hibernate_seconds", 0.0))),
        "ResumeSeconds": ("d", float(prediction.get("resume_seconds", 0.0))),
        "SaveableBytes": (
            "t", max(0, min(_LARGEST_UINT64, int(prediction.get("saveable_bytes", 0)))),
        ),
        "NextStep": ("s", _text(status.next_step)),
        "LastReport": ("s", _text(last)),
        "Sources": (
            "a(sbs)",
            [[_text(item.name), item.works, _text(item.reason)] for item in status.sources],
        ),
    }  # fmt: skip


def several(values: Values, interface: str) -> Values:
    """What GetAll answers; "" stands for any interface."""
    _check_interface(interface)
    return values if interface in ("", INTERFACE) else {}


def one(values: Values, interface: str, name: str) -> Value:
    """What Get answers."""
    try:
        return several(values, interface)[name]
    except KeyError:
        raise _no_property(interface, name) from None


def unsettable(interface: str, name: str) -> CallError:
    """What Set answers."""
    try:
        one(properties(Status()), interface, name)
    except CallError as error:
        return error
    return CallError(READ_ONLY, f"{name} can only be read")


def _check_interface(interface: str) -> None:
    if interface and interface not in _INTERFACES:
        raise CallError(UNKNOWN_INTERFACE, f"{PATH} has no interface {shorten(interface)}")


def _no_property(interface: str, name: str) -> CallError:
    return CallError(UNKNOWN_PROPERTY, f"{interface or PATH} has no property {shorten(name)}")


def _child(path: str) -> str:
    """The next part of our object's path below `path`; "" when it is not on the way there."""
    start = path if path == "/" else f"{path}/"
    return PATH.removeprefix(start).split("/")[0] if PATH.startswith(start) else ""


def _text(text: str) -> str:
    """As D-Bus can carry it: valid UTF-8 without NUL."""
    return text.encode(errors="replace").decode().replace("\0", " ")
