//! Tokens to statements.
use super::ast::{Ast, Function, Init, Inst, Operand, Stmt, Ty, Var, VarSpace};
use super::lexer::{tokenize, Spanned, Token};
use super::ParseError;

type Parsed<T> = Result<T, ParseError>;

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    loc: Option<(u32, u32)>,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(0, |t| t.line)
    }

    fn err<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(ParseError {
            line: self.line(),
            message: message.into(),
        })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|t| &t.token)
    }

    fn is(&self, p: char) -> bool {
        self.peek() == Some(&Token::Punct(p))
    }

    fn eat(&mut self, p: char) -> bool {
        let yes = self.is(p);
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, p: char) -> Parsed<()> {
        if self.eat(p) {
            return Ok(());
        }
        self.err(format!("expected '{p}', found {:?}", self.peek()))
    }

    fn eat_word(&mut self, w: &str) -> bool {
        let yes = matches!(self.peek(), Some(Token::Word(x)) if x == w);
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            other => self.err(format!("expected a name, found {other:?}")),
        }
    }

    fn int(&mut self) -> Parsed<i64> {
        let minus = self.eat('-');
        if !minus {
            self.eat('+');
        }
        match self.peek() {
            Some(&Token::Int(v)) => {
                self.at += 1;
                Ok(if minus {
                    (v as i64).wrapping_neg()
                } else {
                    v as i64
                })
            }
            other => self.err(format!("expected an integer, found {other:?}")),
        }
    }

    fn small(&mut self) -> Parsed<u32> {
        let v = self.int()?;
        u32::try_from(v).or_else(|_| self.err(format!("{v} is out of range")))
    }

    /// Skips to the end of a directive that stands on one line and has no semicolon.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.tokens[self.at].line == line {
            self.at += 1;
        }
    }

    fn dims(&mut self) -> Parsed<[u32; 3]> {
        let mut d = [1; 3];
        for (i, slot) in d.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *slot = self.small()?;
        }
        Ok(d)
    }

    fn init(&mut self, ty: Ty) -> Parsed<Init> {
        if let Some(Token::Word(_)) = self.peek() {
            let mut name = self.word()?;
            if name == "generic" && self.eat('(') {
                name = self.word()?;
                self.expect(')')?;
            }
            let offset = if self.is('+') || self.is('-') {
                self.int()?
            } else {
                0
            };
            return Ok(Init::Symbol(name, offset));
        }
        let bits = match self.peek() {
            Some(&Token::F32(b)) if ty == Ty::F32 => u64::from(b),
            Some(&Token::F64(b)) if ty == Ty::F32 => {
                u64::from((f64::from_bits(b) as f32).to_bits())
            }
            Some(&Token::F64(b)) if ty == Ty::F64 => b,
            _ => return Ok(Init::Bits(self.int()? as u64)),
        };
        self.at += 1;
        Ok(Init::Bits(bits))
    }

    /// A variable after its space: `.align 4 .b8 name[24] = {..}`. Several may share one declaration.
    fn var(&mut self, space: VarSpace, external: bool) -> Parsed<Var> {
        let line = self.line();
        let (mut ty, mut align, mut vector) = (None, None, 1u32);
        let name = loop {
            let w = self.word()?;
            match w.as_str() {
                ".align" if ty.is_none() => align = Some(self.small()?),
                // `.ptr .global .align 16` describes the pointee, not the parameter.
                ".align" => drop(self.small()?),
                ".ptr" | ".global" | ".shared" | ".const" | ".local" if ty.is_some() => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                d if d.starts_with('.') => match Ty::parse(&d[1..]) {
                    Some(t) => ty = Some(t),
                    None => return self.err(format!("unknown directive '{d}' in a declaration")),
                },
                _ => break w,
            }
        };
        let Some(ty) = ty else {
            return self.err(format!("'{name}' has no type"));
        };
        let mut count = 1u64;
        while self.eat('[') {
            if self.eat(']') {
                count = 0;
            } else {
                count *= u64::from(self.small()?);
                self.expect(']')?;
            }
        }
        let mut init = Vec::new();
        if self.eat('=') {
            if self.eat('{') {
                while !self.eat('}') {
                    init.push(self.init(ty)?);
                    self.eat(',');
                }
            } else {
                init.push(self.init(ty)?);
            }
        }
        if count == 0 && !external {
            count = init.len() as u64;
        }
        let bytes = count * u64::from(ty.bytes() * vector);
        let align = align.unwrap_or(ty.bytes() * vector).max(1);
        if !align.is_power_of_two() {
            return self.err(format!("alignment {align} of '{name}'"));
        }
        Ok(Var {
            name,
            space,
            ty,
            align,
            bytes,
            external,
            init,
            line,
        })
    }

    fn params(&mut self) -> Parsed<Vec<Var>> {
        let mut out = Vec::new();
        if !self.eat('(') {
            return Ok(out);
        }
        while !self.eat(')') {
            let space = self.word()?;
            if space != ".param" {
                return self.err(format!("parameter in '{space}' is not supported"));
            }
            out.push(self.var(VarSpace::Param, false)?);
            self.eat(',');
        }
        Ok(out)
    }

    fn function(&mut self, is_entry: bool) -> Parsed<Function> {
        let line = self.line();
        let returns = if is_entry { Vec::new() } else { self.params()? };
        let name = self.word()?;
        let params = self.params()?;
        let (mut max_ntid, mut req_ntid, mut body) = (None, None, None);
        let (mut req_cluster, mut explicit_cluster, mut max_cluster) = (None, false, None);
        let (mut max_registers, mut min_blocks) = (None, None);
        loop {
            if self.eat(';') {
                break;
            }
            if self.is('{') {
                body = Some(self.body()?);
                break;
            }
            let w = self.word()?;
            match w.as_str() {
                ".maxntid" => max_ntid = Some(self.dims()?),
                ".reqntid" => req_ntid = Some(self.dims()?),
                ".reqnctapercluster" => req_cluster = Some(self.dims()?),
                ".explicitcluster" => explicit_cluster = true,
                ".maxclusterrank" => max_cluster = Some(self.small()?),
                ".maxnreg" => max_registers = Some(self.small()?),
                ".minnctapersm" => min_blocks = Some(self.small()?),
                ".maxnctapersm" => drop(self.small()?),
                ".noreturn" => {}
                ".pragma" => {
                    self.at += 1;
                    self.expect(';')?;
                }
                other => {
                    return self.err(format!("unknown directive '{other}' of function '{name}'"))
                }
            }
        }
        Ok(Function {
            name,
            is_entry,
            returns,
            params,
            max_ntid,
            req_ntid,
            req_cluster,
            explicit_cluster,
            max_cluster,
            max_registers,
            min_blocks,
            body,
            line,
        })
    }

    fn body(&mut self) -> Parsed<Vec<Stmt>> {
        let mut out = Vec::new();
        let mut depth = 0u32;
        loop {
            if self.eat('{') {
                depth += 1;
                out.push(Stmt::Open);
            } else if self.eat('}') {
                depth -= 1;
                out.push(Stmt::Close);
                if depth == 0 {
                    return Ok(out);
                }
            } else if !self.eat(';') {
                self.statement(&mut out)?;
            }
        }
    }

    fn statement(&mut self, out: &mut Vec<Stmt>) -> Parsed<()> {
        if self.is('@') {
            out.push(Stmt::Inst(self.inst()?));
            return Ok(());
        }
        let Some(Token::Word(first)) = self.peek() else {
            return self.err(format!("expected a statement, found {:?}", self.peek()));
        };
        let first = first.clone();
        if self.peek_at(1) == Some(&Token::Punct(':')) {
            self.at += 2;
            if self.eat_word(".branchtargets") {
                let mut names = vec![self.word()?];
                while self.eat(',') {
                    names.push(self.word()?);
                }
                self.expect(';')?;
                out.push(Stmt::Targets(first, names));
            } else {
                out.push(Stmt::Label(first));
            }
            return Ok(());
        }
        if !first.starts_with('.') {
            out.push(Stmt::Inst(self.inst()?));
            return Ok(());
        }
        self.at += 1;
        match first.as_str() {
            ".loc" => {
                let (file, line) = (self.small()?, self.small()?);
                self.loc = Some((file, line));
                self.at -= 1;
                self.skip_line();
            }
            ".pragma" => {
                while !self.eat(';') {
                    self.at += 1;
                    if self.at >= self.tokens.len() {
                        return self.err("pragma without end");
                    }
                }
            }
            ".reg" => self.registers(out)?,
            ".local" | ".shared" | ".param" => {
                let space = match first.as_str() {
                    ".local" => VarSpace::Local,
                    ".shared" => VarSpace::Shared,
                    _ => VarSpace::Param,
                };
                out.push(Stmt::Var(self.var(space, false)?));
                self.expect(';')?;
            }
            other => return self.err(format!("unknown directive '{other}'")),
        }
        Ok(())
    }

    fn registers(&mut self, out: &mut Vec<Stmt>) -> Parsed<()> {
        let w = self.word()?;
        let Some(ty) = w.strip_prefix('.').and_then(Ty::parse) else {
            return self.err(format!("unknown register type '{w}'"));
        };
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.eat('<') {
                count = Some(self.small()?);
                self.expect('>')?;
            }
            out.push(Stmt::Reg(name, count, ty));
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn inst(&mut self) -> Parsed<Inst> {
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word()?, negated));
        }
        let line = self.line();
        let opcode = self.word()?;
        let mut operands = Vec::new();
        while !self.eat(';') {
            // nvcc prints `call (..), f, (..)` with commas; `@p bra L` ends at the semicolon.
            operands.push(self.operand()?);
            if !self.eat(',') {
                self.expect(';')?;
                break;
            }
        }
        Ok(Inst {
            guard,
            opcode,
            operands,
            line,
            loc: self.loc,
        })
    }

    fn list(&mut self, close: char) -> Parsed<Vec<Operand>> {
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.operand()?);
            if !self.eat(',') && !self.is(close) {
                return self.err(format!(
                    "expected ',' or '{close}', found {:?}",
                    self.peek()
                ));
            }
        }
        Ok(out)
    }

    fn operand(&mut self) -> Parsed<Operand> {
        if self.eat('{') {
            return Ok(Operand::Vector(self.list('}')?));
        }
        if self.eat('(') {
            return Ok(Operand::Paren(self.list(')')?));
        }
        if self.eat('!') {
            return Ok(Operand::Not(self.word()?));
        }
        if self.eat('[') {
            let base = self.operand()?;
            let (base, offset) = match base {
                Operand::Offset(name, offset) => (Operand::Name(name), offset),
                Operand::Int(offset) => (Operand::Int(0), offset),
                other => (other, 0),
            };
            if self.eat(',') {
                self.expect('{')?;
                let coordinates = self.list('}')?;
                self.expect(']')?;
                return Ok(Operand::Tensor(Box::new(base), offset, coordinates));
            }
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        match self.peek().cloned() {
            Some(Token::Word(name)) => {
                self.at += 1;
                if self.eat('|') {
                    return Ok(Operand::Pair(name, self.word()?));
                }
                if self.is('+') || (self.is('-') && matches!(self.peek_at(1), Some(Token::Int(_))))
                {
                    if self.is('+') {
                        self.at += 1;
                    }
                    return Ok(Operand::Offset(name, self.int()?));
                }
                Ok(Operand::Name(name))
            }
            Some(Token::F32(bits)) => {
                self.at += 1;
                Ok(Operand::F32(bits))
            }
            Some(Token::F64(bits)) => {
                self.at += 1;
                Ok(Operand::F64(bits))
            }
            _ => Ok(Operand::Int(self.int()?)),
        }
    }

    fn module(&mut self) -> Parsed<Ast> {
        let mut ast = Ast::default();
        while let Some(token) = self.peek() {
            let Token::Word(w) = token else {
                return self.err(format!("expected a directive, found {token:?}"));
            };
            let w = w.clone();
            match w.as_str() {
                ".version" => {
                    let from = self.line();
                    self.at += 1;
                    if let Some(Token::F64(bits)) = self.peek() {
                        ast.version = format!("{:.1}", f64::from_bits(*bits));
                    }
                    debug_assert_eq!(from, self.line());
                    self.skip_line();
                }
                ".target" => {
                    self.at += 1;
                    ast.target = self.word()?;
                    self.at -= 1;
                    self.skip_line();
                }
                ".address_size" => {
                    self.at += 1;
                    if self.int()? != 64 {
                        return self.err(".address_size is not 64");
                    }
                }
                ".file" => {
                    self.at += 1;
                    let index = self.small()?;
                    if let Some(Token::Text(t)) = self.peek() {
                        let t = t.clone();
                        ast.files.push((index, t));
                    }
                    self.at -= 1;
                    self.skip_line();
                }
                // Debug sections stand at the end and hold no code.
                ".section" => {
                    while self.at < self.tokens.len() && !self.eat('}') {
                        self.at += 1;
                    }
                }
                _ => self.definition(&mut ast)?,
            }
        }
        Ok(ast)
    }

    fn definition(&mut self, ast: &mut Ast) -> Parsed<()> {
        let mut external = false;
        loop {
            let w = self.word()?;
            match w.as_str() {
                ".visible" | ".weak" | ".common" => {}
                ".extern" => external = true,
                ".alias" | ".callprototype" => return self.err(format!("'{w}' is not supported")),
                ".entry" | ".func" => {
                    let f = self.function(w == ".entry")?;
                    ast.functions.push(f);
                    return Ok(());
                }
                ".global" | ".const" | ".shared" => {
                    let space = match w.as_str() {
                        ".global" => VarSpace::Global,
                        ".const" => VarSpace::Const,
                        _ => VarSpace::Shared,
                    };
                    ast.vars.push(self.var(space, external)?);
                    return self.expect(';');
                }
                ".pragma" => {
                    self.at += 1;
                    return self.expect(';');
                }
                other => return self.err(format!("unknown directive '{other}'")),
            }
        }
    }
}

/// Parses the text into statements.
///
/// # Errors
/// The first thing that is not PTX.
pub fn parse_ast(text: &str) -> Parsed<Ast> {
    let tokens = tokenize(text)?;
    Parser {
        tokens,
        at: 0,
        loc: None,
    }
    .module()
}
