package catalogue

import (
	"embed"
	"fmt"

	"github.com/intervengine/webhooks/models"
)

//go:embed builtin
var builtinFiles embed.FS

// Names of the system's own notices. Webhooks must name them: no pattern matches them.
const (
	NoticeFailing  = "webhook.failing"
	NoticeDisabled = "webhook.disabled"
)

type builtinType struct{ name, title, description string }

// Builtin gives the event types that every catalogue starts with, without ids and times. They
// are not strict, so that the platform can add fields before the catalogue knows them.
func Builtin() []models.EventType {
	return load([]builtinType{
		{"participant.created", "Participant Created", "A participant was created, by a form, an import or the API."},
		{"participant.profile_updated", "Participant Profile Updated", "Fields of a participant's profile changed. The event carries the participant as it is now and each change with its value before and after."},
		{"participant.tags_added", "Participant Tags Added", "One or more tags were added to a participant."},
		{"message.sent", "Message Sent", "A message was sent to or by a participant, over any channel."},
	})
}

// Notices gives the event types that the system itself emits. Every Catalogue has them, whatever
// it was made from; nobody can emit or change them.
func Notices() []models.EventType {
	return load([]builtinType{
		{NoticeFailing, "Webhook Failing", "A webhook has had no success for half the time after which it is disabled."},
		{NoticeDisabled, "Webhook Disabled", "A webhook was disabled because its receiver kept failing or said that it is gone."},
	})
}

func load(list []builtinType) []models.EventType {
	types := make([]models.EventType, len(list))
	for i, b := range list {
		types[i] = models.EventType{
			Name: b.name, Title: b.title, Description: &list[i].description,
			Schema: readBuiltin(b.name + ".schema.json"), Example: readBuiltin(b.name + ".example.json"),
			Status: models.EventTypeActive, Builtin: true,
		}
	}
	return types
}

// readBuiltin gives an embedded file, which is missing only by a programmer's mistake.
func readBuiltin(name string) *string {
	b, err := builtinFiles.ReadFile("builtin/" + name)
	if err != nil {
		panic(fmt.Sprintf("catalogue: built-in file: %v", err))
	}
	text := string(b)
	return &text
}
