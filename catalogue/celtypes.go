package catalogue

import (
	"slices"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// unite gives the form of a value that is of one of the forms: a filter may use a field that any
// of the subscribed types has. nil stands for a type whose form is not known.
func unite(forms []*form) *form {
	if slices.Contains(forms, nil) || len(forms) == 0 {
		return &form{}
	}
	result := forms[0]
	for _, f := range forms[1:] {
		result = uniteTwo(result, f)
	}
	return result
}

func uniteTwo(a, b *form) *form {
	switch {
	case a == b:
		return a
	case a.kind != b.kind || a.kind == kindAny:
		return &form{}
	case a.kind == kindList:
		return &form{kind: kindList, item: uniteTwo(a.item, b.item)}
	case a.kind != kindObject:
		return &form{kind: a.kind}
	}
	result := &form{kind: kindObject, open: a.open || b.open, fields: slices.Clone(a.fields)}
	for _, f := range b.fields {
		i := slices.IndexFunc(result.fields, func(g field) bool { return g.name == f.name })
		if i < 0 {
			result.fields = append(result.fields, f)
			continue
		}
		result.fields[i].form = uniteTwo(result.fields[i].form, f.form)
	}
	return result
}

// fieldTypes tells cel-go's checker which fields data has. Values are maps at run time: only the
// checker asks it. It is immutable after newFieldTypes.
type fieldTypes struct {
	*types.Registry
	objects map[string]*form      // by the name of the made-up type
	named   map[*form]*types.Type // the other way round
}

// newFieldTypes gives the checker's type for a form, and what knows its fields.
func newFieldTypes(data *form) (*cel.Type, *fieldTypes, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, nil, err
	}
	p := &fieldTypes{Registry: registry, objects: map[string]*form{}, named: map[*form]*types.Type{}}
	return p.typeOf(data), p, nil
}

// typeOf gives the checker's type. All values may be null, and numbers are of unknown kind,
// because CEL would take 1 and 1.0 for things that cannot be compared.
func (p *fieldTypes) typeOf(f *form) *cel.Type {
	switch f.kind {
	case kindBoolean:
		return cel.NullableType(cel.BoolType)
	case kindString:
		return cel.NullableType(cel.StringType)
	case kindList:
		return cel.ListType(p.typeOf(f.item))
	case kindObject:
		if t, ok := p.named[f]; ok {
			return t
		}
		name := "object" + strconv.Itoa(len(p.objects)+1)
		t := cel.ObjectType(name)
		p.objects[name], p.named[f] = f, t
		for _, field := range f.fields {
			p.typeOf(field.form)
		}
		return t
	case kindAny, kindNumber:
	}
	return cel.DynType
}

// FindStructType tells the checker that a type exists.
func (p *fieldTypes) FindStructType(name string) (*types.Type, bool) {
	if f, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(p.named[f]), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames lists the fields of a type.
func (p *fieldTypes) FindStructFieldNames(name string) ([]string, bool) {
	if f, ok := p.objects[name]; ok {
		return f.fieldNames(), true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType gives the type of a field. An open object has every field.
func (p *fieldTypes) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	f, ok := p.objects[name]
	if !ok {
		return p.Registry.FindStructFieldType(name, fieldName)
	}
	if child, ok := f.field(fieldName); ok {
		// Every object within has its name by now, so that this only reads.
		return &types.FieldType{Type: p.typeOf(child)}, true
	}
	if f.open {
		return &types.FieldType{Type: types.DynType}, true
	}
	return nil, false
}

// NewValue refuses to build objects: filters only look at them.
func (p *fieldTypes) NewValue(name string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("objects of type %s cannot be made", name)
}
