//! Templates whose every operation is counted: what the engine would do at once becomes a call of one of our functions ([`Operation`]).
//!
//! The engine's own bound is a number of steps, and one step can double a text or compare two trees.

use std::cell::Cell;

use minijinja::machinery::ast::{
    BinOp, BinOpKind, Call, CallArg, CallBlock, Compare, CompareOpKind, Const, Do, EmitExpr, Expr, FilterBlock, ForLoop, GetAttr,
    IfCond, IfExpr, List, Macro, Map, Set, SetBlock, Spanned, Stmt, Template, Tuple, UnaryOp, UnaryOpKind, Var, WithBlock,
};
use minijinja::machinery::{Span, ast};
use minijinja::{Error, ErrorKind, Value};

use super::operation::Operation;

/// The deepest that statements and expressions may be nested; those that were published have some 20 levels.
const MAX_DEPTH: usize = 500;

/// The most arguments of a call, and items of a list, that the engine's instructions can count.
const MAX_ARGUMENTS: usize = 60_000;

/// The name of a text between its capture and the filters that are applied to it. It is not an identifier, as no name of ours.
const CAPTURED: &str = "(captured)";

/// The template `stmt` with calls in the place of operations.
pub(super) fn metered<'s>(stmt: &Stmt<'s>) -> Result<Stmt<'s>, Error> {
    let rewriter = Rewriter { depth: Cell::new(0) };
    let statements = rewriter.statements(std::slice::from_ref(stmt))?;
    let span = Span::default();
    Ok(Stmt::Template(Spanned::new(Template { children: statements }, span)))
}

struct Rewriter {
    depth: Cell<usize>,
}

impl Rewriter {
    fn deeper<T>(&self, rewrite: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > MAX_DEPTH {
            return Err(Error::new(ErrorKind::SyntaxError, "template exceeds maximum recursion limits"));
        }
        let rewritten = rewrite();
        self.depth.set(self.depth.get() - 1);
        rewritten
    }

    fn statements<'s>(&self, statements: &[Stmt<'s>]) -> Result<Vec<Stmt<'s>>, Error> {
        let mut rewritten = Vec::with_capacity(statements.len());
        for statement in statements {
            self.deeper(|| self.statement(statement, &mut rewritten))?;
        }
        Ok(rewritten)
    }

    fn statement<'s>(&self, statement: &Stmt<'s>, to: &mut Vec<Stmt<'s>>) -> Result<(), Error> {
        to.push(match statement {
            Stmt::Template(s) => Stmt::Template(Spanned::new(Template { children: self.statements(&s.children)? }, s.span())),
            Stmt::EmitExpr(s) => emit(self.expression(&s.expr)?, s.span()),
            Stmt::EmitRaw(s) => emit(constant(s.raw, s.span()), s.span()),
            Stmt::ForLoop(s) => Stmt::ForLoop(Spanned::new(self.for_loop(s)?, s.span())),
            Stmt::IfCond(s) => {
                let (expr, true_body) = (self.expression(&s.expr)?, self.statements(&s.true_body)?);
                Stmt::IfCond(Spanned::new(IfCond { expr, true_body, false_body: self.statements(&s.false_body)? }, s.span()))
            }
            Stmt::WithBlock(s) => {
                let assign = |(target, value): &(Expr<'s>, Expr<'s>)| Ok((self.target(target)?, self.expression(value)?));
                let assignments = s.assignments.iter().map(assign).collect::<Result<_, Error>>()?;
                Stmt::WithBlock(Spanned::new(WithBlock { assignments, body: self.statements(&s.body)? }, s.span()))
            }
            Stmt::Set(s) => {
                Stmt::Set(Spanned::new(Set { target: self.target(&s.target)?, expr: self.expression(&s.expr)? }, s.span()))
            }
            Stmt::SetBlock(s) => return self.set_block(s, to),
            Stmt::FilterBlock(s) => return self.filter_block(s, to),
            Stmt::AutoEscape(s) => {
                let (enabled, body) = (self.expression(&s.enabled)?, self.statements(&s.body)?);
                Stmt::AutoEscape(Spanned::new(ast::AutoEscape { enabled, body }, s.span()))
            }
            // No other template could replace it.
            Stmt::Block(s) => {
                let (assignments, body) = (Vec::new(), self.statements(&s.body)?);
                Stmt::WithBlock(Spanned::new(WithBlock { assignments, body }, s.span()))
            }
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
                return Err(Error::new(ErrorKind::TemplateNotFound, "a chat template has no others beside it"));
            }
            Stmt::Macro(s) => Stmt::Macro(self.macro_declaration(s)?),
            Stmt::CallBlock(s) => {
                let callee = match &s.call.expr {
                    // The engine has to see the call itself: it passes the block with it.
                    Expr::GetAttr(method) => self.attribute(method)?,
                    other => self.expression(other)?,
                };
                let call = Spanned::new(Call { expr: callee, args: self.arguments(&s.call.args)? }, s.call.span());
                let macro_decl = self.macro_declaration(&s.macro_decl)?;
                Stmt::CallBlock(Spanned::new(CallBlock { call, macro_decl }, s.span()))
            }
            Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
            Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
            Stmt::Do(s) => Stmt::Do(Spanned::new(Do { call: self.call(&s.call)? }, s.span())),
        });
        Ok(())
    }

    fn for_loop<'s>(&self, s: &ForLoop<'s>) -> Result<ForLoop<'s>, Error> {
        Ok(ForLoop {
            target: self.target(&s.target)?,
            iter: operation(Operation::Iterate, vec![self.expression(&s.iter)?], s.iter.span())?,
            filter_expr: s.filter_expr.as_ref().map(|filter| self.expression(filter)).transpose()?,
            recursive: s.recursive,
            body: self.statements(&s.body)?,
            else_body: self.statements(&s.else_body)?,
        })
    }

    /// Filters are applied to what was captured in a statement of its own.
    fn set_block<'s>(&self, s: &Spanned<SetBlock<'s>>, to: &mut Vec<Stmt<'s>>) -> Result<(), Error> {
        let (target, body) = (self.target(&s.target)?, self.statements(&s.body)?);
        let Some(filter) = &s.filter else {
            to.push(Stmt::SetBlock(Spanned::new(SetBlock { target, filter: None, body }, s.span())));
            return Ok(());
        };
        to.push(captured(body, s.span()));
        to.push(Stmt::Set(Spanned::new(Set { target, expr: self.expression(filter)? }, s.span())));
        Ok(())
    }

    fn filter_block<'s>(&self, s: &Spanned<FilterBlock<'s>>, to: &mut Vec<Stmt<'s>>) -> Result<(), Error> {
        to.push(captured(self.statements(&s.body)?, s.span()));
        to.push(emit(self.expression(&s.filter)?, s.span()));
        Ok(())
    }

    fn macro_declaration<'s>(&self, s: &Spanned<Macro<'s>>) -> Result<Spanned<Macro<'s>>, Error> {
        let declaration = Macro {
            name: s.name,
            args: self.each(&s.args, Self::target)?,
            defaults: self.each(&s.defaults, Self::expression)?,
            body: self.statements(&s.body)?,
        };
        Ok(Spanned::new(declaration, s.span()))
    }

    /// What is assigned to.
    fn target<'s>(&self, target: &Expr<'s>) -> Result<Expr<'s>, Error> {
        self.deeper(|| match target {
            Expr::List(list) => Ok(Expr::List(Spanned::new(List { items: self.each(&list.items, Self::target)? }, list.span()))),
            Expr::Tuple(tuple) => {
                Ok(Expr::Tuple(Spanned::new(Tuple { items: self.each(&tuple.items, Self::target)? }, tuple.span())))
            }
            Expr::GetAttr(attribute) => self.attribute(attribute),
            other => self.expression(other),
        })
    }

    fn each<'s>(
        &self,
        all: &[Expr<'s>],
        rewrite: fn(&Self, &Expr<'s>) -> Result<Expr<'s>, Error>,
    ) -> Result<Vec<Expr<'s>>, Error> {
        all.iter().map(|expression| rewrite(self, expression)).collect()
    }

    fn expression<'s>(&self, expression: &Expr<'s>) -> Result<Expr<'s>, Error> {
        self.deeper(|| self.shallow(expression))
    }

    fn shallow<'s>(&self, expression: &Expr<'s>) -> Result<Expr<'s>, Error> {
        let span = expression.span();
        let of = |part: &Expr<'s>| self.expression(part);
        let of_optional = |part: &Option<Expr<'s>>| part.as_ref().map_or_else(|| Ok(constant((), span)), of);
        Ok(match expression {
            Expr::Var(e) => variable(e.id, span),
            Expr::Const(e) => constant(e.value.clone(), span),
            Expr::Slice(e) => {
                let parts = vec![of(&e.expr)?, of_optional(&e.start)?, of_optional(&e.stop)?, of_optional(&e.step)?];
                operation(Operation::Slice, parts, span)?
            }
            Expr::UnaryOp(e) => {
                let op = if matches!(e.op, UnaryOpKind::Not) { UnaryOpKind::Not } else { UnaryOpKind::Neg };
                Expr::UnaryOp(Spanned::new(UnaryOp { op, expr: of(&e.expr)? }, span))
            }
            Expr::BinOp(e) => binary(e.op, of(&e.left)?, of(&e.right)?, span)?,
            Expr::Compare(e) => self.comparison(e, span)?,
            Expr::IfExpr(e) => {
                let (test_expr, true_expr) = (of(&e.test_expr)?, of(&e.true_expr)?);
                let false_expr = e.false_expr.as_ref().map(of).transpose()?;
                Expr::IfExpr(Spanned::new(IfExpr { test_expr, true_expr, false_expr }, span))
            }
            Expr::Filter(e) => {
                let subject = e.expr.as_ref().map_or_else(|| Ok(variable(CAPTURED, span)), of)?;
                self.named(Operation::Filter, e.name, subject, &e.args, span)?
            }
            Expr::Test(e) => self.named(Operation::Test, e.name, of(&e.expr)?, &e.args, span)?,
            Expr::GetAttr(e) => self.attribute(e)?,
            Expr::GetItem(e) => operation(Operation::Item, vec![of(&e.expr)?, of(&e.subscript_expr)?], span)?,
            Expr::Call(e) => Expr::Call(self.call(e)?),
            Expr::List(e) => self.collection(Operation::List, e.as_const(), e.items.iter(), span)?,
            Expr::Tuple(e) => self.collection(Operation::Tuple, e.as_const(), e.items.iter(), span)?,
            Expr::Map(e) => self.map(e, span)?,
        })
    }

    fn attribute<'s>(&self, attribute: &Spanned<GetAttr<'s>>) -> Result<Expr<'s>, Error> {
        let expr = self.expression(&attribute.expr)?;
        Ok(Expr::GetAttr(Spanned::new(GetAttr { expr, name: attribute.name }, attribute.span())))
    }

    fn comparison<'s>(&self, comparison: &Compare<'s>, span: Span) -> Result<Expr<'s>, Error> {
        let mut parts = vec![self.expression(&comparison.expr)?];
        for step in &comparison.ops {
            let name = match step.op {
                CompareOpKind::Eq => "==",
                CompareOpKind::Ne => "!=",
                CompareOpKind::Lt => "<",
                CompareOpKind::Lte => "<=",
                CompareOpKind::Gt => ">",
                CompareOpKind::Gte => ">=",
                CompareOpKind::In => "in",
                CompareOpKind::NotIn => "not in",
            };
            parts.extend([constant(name, span), self.expression(&step.expr)?]);
        }
        operation(Operation::Compare, parts, span)
    }

    /// The engine makes the map, and only it can; keys are hashed, which looks into them.
    fn map<'s>(&self, map: &Map<'s>, span: Span) -> Result<Expr<'s>, Error> {
        if let Some(value) = map.as_const() {
            return Ok(constant(value, span));
        }
        check_count(map.keys.len())?;
        let key = |key: &Expr<'s>| match key {
            Expr::Const(_) => self.expression(key),
            other => operation(Operation::Key, vec![self.expression(other)?], span),
        };
        let keys = map.keys.iter().map(key).collect::<Result<_, _>>()?;
        let map = Map { keys, values: self.each(&map.values, Self::expression)? };
        operation(Operation::Map, vec![Expr::Map(Spanned::new(map, span))], span)
    }

    fn collection<'i, 's: 'i>(
        &self,
        kind: Operation,
        constants: Option<Value>,
        items: impl Iterator<Item = &'i Expr<'s>>,
        span: Span,
    ) -> Result<Expr<'s>, Error> {
        match constants {
            Some(value) => Ok(constant(value, span)),
            None => operation(kind, items.map(|item| self.expression(item)).collect::<Result<_, _>>()?, span),
        }
    }

    fn call<'s>(&self, call: &Spanned<Call<'s>>) -> Result<Spanned<Call<'s>>, Error> {
        let span = call.span();
        let named = match &call.expr {
            Expr::GetAttr(method) => {
                self.named(Operation::Method, method.name, self.expression(&method.expr)?, &call.args, span)?
            }
            // They copy what they are given.
            Expr::Var(var) if matches!(var.id, "dict" | "namespace") => {
                self.named(Operation::Function, var.id, constant((), span), &call.args, span)?
            }
            other => {
                let args = self.arguments(&call.args)?;
                return Ok(Spanned::new(Call { expr: self.expression(other)?, args }, span));
            }
        };
        match named {
            Expr::Call(call) => Ok(call),
            _ => Err(Error::new(ErrorKind::SyntaxError, "not a call")),
        }
    }

    /// A filter, test or method: its name goes before its subject.
    fn named<'s>(
        &self,
        kind: Operation,
        name: &str,
        subject: Expr<'s>,
        args: &[CallArg<'s>],
        span: Span,
    ) -> Result<Expr<'s>, Error> {
        let mut all = vec![CallArg::Pos(constant(name, span)), CallArg::Pos(subject)];
        all.extend(self.arguments(args)?);
        Ok(Expr::Call(Spanned::new(Call { expr: variable(kind.name(), span), args: all }, span)))
    }

    fn arguments<'s>(&self, arguments: &[CallArg<'s>]) -> Result<Vec<CallArg<'s>>, Error> {
        check_count(arguments.len())?;
        let rewrite = |argument: &CallArg<'s>| {
            Ok(match argument {
                CallArg::Pos(value) => CallArg::Pos(self.expression(value)?),
                CallArg::Kwarg(name, value) => CallArg::Kwarg(name, self.expression(value)?),
                CallArg::PosSplat(value) => {
                    let span = value.span();
                    CallArg::PosSplat(operation(Operation::Unpack, vec![self.expression(value)?], span)?)
                }
                CallArg::KwargSplat(value) => {
                    let span = value.span();
                    CallArg::KwargSplat(operation(Operation::Unpack, vec![self.expression(value)?], span)?)
                }
            })
        };
        arguments.iter().map(rewrite).collect()
    }
}

fn binary<'s>(op: BinOpKind, left: Expr<'s>, right: Expr<'s>, span: Span) -> Result<Expr<'s>, Error> {
    let comparison = match op {
        BinOpKind::Add => return operation(Operation::Add, vec![left, right], span),
        BinOpKind::Mul => return operation(Operation::Multiply, vec![left, right], span),
        BinOpKind::Rem => return operation(Operation::Remainder, vec![left, right], span),
        BinOpKind::Concat => return operation(Operation::Concat, vec![left, right], span),
        // Conditions, and what is of numbers alone.
        BinOpKind::ScAnd | BinOpKind::ScOr | BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Pow => {
            return Ok(Expr::BinOp(Spanned::new(BinOp { op, left, right }, span)));
        }
        BinOpKind::Eq => "==",
        BinOpKind::Ne => "!=",
        BinOpKind::Lt => "<",
        BinOpKind::Lte => "<=",
        BinOpKind::Gt => ">",
        BinOpKind::Gte => ">=",
        BinOpKind::In => "in",
    };
    operation(Operation::Compare, vec![left, constant(comparison, span), right], span)
}

fn operation(kind: Operation, parts: Vec<Expr<'_>>, span: Span) -> Result<Expr<'_>, Error> {
    check_count(parts.len())?;
    let args = parts.into_iter().map(CallArg::Pos).collect();
    Ok(Expr::Call(Spanned::new(Call { expr: variable(kind.name(), span), args }, span)))
}

fn check_count(n: usize) -> Result<(), Error> {
    if n <= MAX_ARGUMENTS {
        return Ok(());
    }
    Err(Error::new(ErrorKind::SyntaxError, format!("{n} arguments or items are more than {MAX_ARGUMENTS}")))
}

fn emit(expr: Expr<'_>, span: Span) -> Stmt<'_> {
    Stmt::EmitExpr(Spanned::new(EmitExpr { expr }, span))
}

fn captured(body: Vec<Stmt<'_>>, span: Span) -> Stmt<'_> {
    Stmt::SetBlock(Spanned::new(SetBlock { target: variable(CAPTURED, span), filter: None, body }, span))
}

fn variable<'s>(id: &'s str, span: Span) -> Expr<'s> {
    Expr::Var(Spanned::new(Var { id }, span))
}

fn constant<'s>(value: impl Into<Value>, span: Span) -> Expr<'s> {
    Expr::Const(Spanned::new(Const { value: value.into() }, span))
}
